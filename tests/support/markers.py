"""Markers of a test, by what it uses: its fixtures, and the functions that it, its fixtures and their helpers name.

SLOW names tests that take too long for `scripts/test.sh --quick`.
"""

import inspect
import sys
from types import CodeType, FunctionType, ModuleType

from places import TESTS

FIXTURES = dict.fromkeys(("device", "integrated_device", "discrete_device", "driver"), "device")
USES = {
    "vulkan_drivers.run_on": "device",
    "vulkan_drivers.start": "device",
    "vkbackend.session.Session": "device",
    "vkbackend.device.context.Device": "device",
    "starter_models.model_path": "model",
    "live_server.LiveServer": "live",
    "live_server.wait_for_port": "live",
    "subprocess.Popen": "live",
    "subprocess.run": "live",
    "docker_registry.DockerRegistry": "registry",
    "clients_world.serving": "clients",
    "soak_clients.soak": "soak",
    "soak_streams.run": "soak",
    "shared_data.shared": "recorded",
}
MODULES = {name.rpartition(".")[0] for name in USES}
SLOW = {  # too slow for the quick run, whatever they need: file -> tests
    "test_abandoned_work.py": ("test_a_template_of_a_model_ends_when_nobody_waits",),
    "test_agreement.py": ("test_ggml_agrees_with_twins",),
    "test_bench.py": ("test_plot",),
    "test_bench_bars.py": ("test_host_share_grows_with_what_the_host_does",),
    "test_bench_compare.py": (
        "test_clients_that_ask_at_the_same_time",
        "test_what_a_server_refuses_is_said",
    ),
    "test_bodies.py": (
        "test_a_body_that_finds_no_room_is_refused",
        "test_a_body_waits_while_others_take_the_room",
        "test_bodies_that_wait_for_each_other_come_to_an_end",
        "test_the_oldest_slow_body_gives_way_and_small_ones_wait_for_nobody",
    ),
    "test_builtin_match.py": ("test_a_near_text_that_writes_something_else_is_kept",),
    "test_cli.py": (
        "test_create_says_which_layers_are_new",
        "test_run_serves_itself",
    ),
    "test_cli_measure.py": (
        "test_bench_of_the_hosts_share",
        "test_bench_on_a_device",
        "test_bench_on_the_cpu",
        "test_bench_refuses_what_does_not_go_together",
    ),
    "test_cli_run.py": (
        "test_a_conversation_on_a_terminal",
        "test_doctor_finds_what_is_wrong",
        "test_doctor_writes_what_a_bug_report_needs",
        "test_tokens_and_what_else_was_likely",
    ),
    "test_convert.py": ("test_weights_and_tokens_come_back",),
    "test_convert_refusals.py": (
        "test_any_byte_may_be_wrong",
        "test_any_value_of_a_json_file_may_be_odd",
    ),
    "test_convert_shapes.py": ("test_what_config_json_leaves_out_takes_its_default",),
    "test_convert_tokenizers.py": ("test_sentencepieces_own_file",),
    "test_crash.py": ("test_no_text_in_a_request_leads_out_of_the_store",),
    "test_create_pulls.py": ("test_texts_that_could_not_be_read_back_are_not_written",),
    "test_damaged_models.py": ("test_no_damaged_model_ends_the_process",),
    "test_delete_loaded.py": ("test_a_deleted_model_leaves_memory",),
    "test_distribution.py": (
        "test_a_sampler_draws_from_a_whole_row_what_a_full_sort_gives",
        "test_draws_from_a_large_vocabulary_equal_those_of_a_full_sort",
        "test_draws_without_a_sort_equal_those_of_a_full_sort",
        "test_no_option_sorts_the_vocabulary_or_grows_with_the_context",
    ),
    "test_embed.py": (
        "test_a_large_answer_does_not_hold_up_the_event_loop",
        "test_embeddings_that_are_not_finite_are_an_error",
        "test_recorded_conversations",
    ),
    "test_fitting.py": ("test_the_same_messages_are_kept_as_one_by_one",),
    "test_generate.py": (
        "test_a_large_request_does_not_delay_others",
        "test_a_lost_device_is_reported_and_the_next_request_loads_again",
        "test_refusals",
    ),
    "test_ggml_server.py": (
        "test_a_model_runs_on_the_threads_that_a_request_names",
        "test_an_answer_continues_when_its_model_is_deleted",
        "test_threads_of_an_idle_server_sleep",
    ),
    "test_gguf.py": ("test_random_damage_never_escapes",),
    "test_gotemplate.py": ("test_a_template_costs_neither_all_time_nor_all_memory",),
    "test_handlers_inference.py": (
        "test_a_call_that_cannot_be_read_ends_the_answer_with_an_error",
        "test_a_renderer_that_the_model_names",
        "test_every_token_has_its_log_probability",
        "test_recorded_conversations",
        "test_text_that_only_began_like_a_tag_is_not_lost",
    ),
    "test_imports.py": (
        "test_a_bare_server_in_the_wheel_is_seen",
        "test_a_folder_or_file_in_no_list_is_an_error",
        "test_the_layers_of_the_server_can_be_broken",
        "test_the_layers_of_vkbackend_can_be_broken",
        "test_the_linter_sees_imports_of_the_server_by_vkbackend",
        "test_the_server_is_imported_in_main_only_and_by_itself_with_relative_imports",
        "test_the_wheel_holds_one_package",
    ),
    "test_invalid_names.py": ("test_a_long_text_is_shown_by_its_beginning",),
    "test_jinja.py": ("test_hostile_templates",),
    "test_kv_cache.py": ("test_requests_that_come_and_go_at_random",),
    "test_large_descriptions.py": ("test_a_models_description_decodes_no_vocabulary",),
    "test_large_vocabularies.py": (
        "test_a_large_vocabulary_opens_in_well_under_a_second",
        "test_a_large_vocabulary_takes_little_memory",
    ),
    "test_limits.py": ("test_a_million_json_values_are_read_and_one_more_is_refused",),
    "test_load_progress.py": (
        "test_a_client_that_leaves_during_the_load_does_not_end_it",
        "test_a_load_counts_the_bytes_of_the_file",
        "test_load_progress_comes_before_the_answer",
        "test_load_progress_is_sent_only_on_request_and_in_streams",
        "test_run_shows_a_bar_on_a_terminal_only",
    ),
    "test_loaded_models.py": (
        "test_a_default_of_zero_serves_each_request_and_unloads",
        "test_a_request_without_keep_alive_leaves_it_as_it_was",
        "test_a_stopped_engine_is_loaded_again",
        "test_another_context_length_loads_again_and_other_options_do_not",
        "test_another_model_waits_for_the_users_of_the_first",
        "test_deleted_during_its_load_it_serves_waiting_requests_and_is_unloaded",
        "test_expire_unloads_at_once_or_after_the_last_user",
        "test_keep_alive_zero_unloads_after_use_and_a_short_one_after_a_while",
        "test_use_puts_the_end_off",
    ),
    "test_long_chats.py": (
        "test_a_chat_that_outgrew_its_context_is_fitted_in_a_fraction_of_a_second",
        "test_a_token_of_a_long_chat_costs_as_little_as_one_of_a_short_chat",
    ),
    "test_long_conversations.py": ("test_time_grows_with_the_number_of_messages",),
    "test_long_texts.py": ("test_a_text_that_cannot_fit_takes_little_time_and_memory",),
    "test_loop_lag.py": (
        "test_a_body_as_large_as_the_limit_holds_up_the_event_loop_for_less_than_a_second",
        "test_a_context_of_131072_ids_holds_up_the_event_loop_for_at_most_20_ms",
        "test_no_request_up_to_4_mib_holds_up_the_event_loop",
    ),
    "test_malformed.py": ("test_no_malformed_request_is_an_error_of_the_server",),
    "test_many_clients.py": ("test_preempted_requests_get_the_same_bits",),
    "test_openai_extras.py": ("test_no_odd_value_is_an_error_of_the_server",),
    "test_parallel.py": ("test_num_parallel_says_how_many_run_together",),
    "test_prompt_parts_run.py": (
        "test_a_part_of_a_step_does_not_cut_rows_that_see_each_other",
        "test_a_whole_part_is_seen_by_its_own_rows_alone",
        "test_answers_do_not_depend_on_other_requests_or_the_cache",
        "test_bits_do_not_depend_on_how_a_prompt_is_cut",
        "test_bits_do_not_depend_on_other_sequences",
        "test_logits_are_those_of_a_plain_forward_pass",
        "test_pages_of_a_part_are_shared_and_the_rest_has_the_same_bits",
        "test_rows_that_are_too_many_for_a_step_are_refused",
        "test_rows_that_equal_embeddings_of_tokens_give_their_bits",
        "test_steps_of_tokens_are_recorded_without_parts",
    ),
    "test_quantize.py": (
        "test_a_large_tensor_takes_little_memory",
        "test_a_model_is_quantized_from_another",
        "test_types_of_the_small_mixtures",
    ),
    "test_real_shapes.py": (
        "test_longer_pieces_consist_of_two_pieces",
        "test_merges_of_a_real_vocabulary_are_consistent",
        "test_real_vocabularies_tokenize_any_text",
        "test_the_script_writes_what_it_is_asked_for",
    ),
    "test_real_widths.py": (
        "test_a_decode_step_far_into_a_context",
        "test_attention_far_into_a_context",
        "test_products",
    ),
    "test_run_shader.py": ("test_any_bytes_of_glsl_compile_or_are_errors",),
    "test_sampler.py": ("test_candidates_give_what_the_whole_row_gives",),
    "test_schema.py": ("test_a_schema_of_many_patterns_and_references_is_read_at_once",),
    "test_schema_limits.py": (
        "test_a_large_schema_is_compiled_within_seconds",
        "test_a_schema_that_is_too_large_is_refused_within_seconds",
    ),
    "test_service.py": (
        "test_a_stream_that_outlasts_the_drain_time_gets_a_last_line",
        "test_foreign_hosts_and_origins_get_403_on_every_route",
    ),
    "test_several_models.py": (
        "test_a_load_does_not_block_requests_to_a_loaded_model",
        "test_a_load_that_takes_too_long_is_an_error_and_is_released_when_it_ends",
        "test_a_model_in_use_is_evicted_after_its_users_and_new_ones_queue_behind_the_waiting_request",
        "test_a_model_is_split_only_where_nobody_can_give_way",
        "test_a_recreated_model_is_loaded_while_the_old_one_is_in_use",
        "test_a_request_cancelled_during_an_eviction_leaves_nothing_behind",
        "test_as_many_give_way_as_the_memory_asks_for_and_it_is_free_before_the_next_load",
        "test_loads_come_in_the_order_of_their_requests",
        "test_of_too_many_models_an_unused_one_is_evicted",
        "test_the_limit_is_three_for_each_device",
    ),
    "test_sizes.py": ("test_functions_have_at_most_60_lines",),
    "test_store_entries.py": ("test_an_odd_blob_is_an_error_that_names_the_model",),
    "test_store_lock.py": ("test_a_thread_waits_for_another_thread_no_longer_than_for_a_program",),
    "test_window_histories.py": ("test_random_histories_have_the_bits_of_full_windows",),
}


def of(item) -> set[str]:
    """The names of the markers that belong to a collected test."""
    file, function = item.path.name, item.originalname
    chosen = item.callspec.params.values() if hasattr(item, "callspec") else ()  # fixtures that a parameter names
    found = {FIXTURES[name] for name in (*item.fixturenames, *chosen) if isinstance(name, str) and name in FIXTURES}
    if function in SLOW.get(file, ()):
        found.add("slow")
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        found |= _marks(definitions[-1].func)
    return found | _marks(item.function)


_known: dict[FunctionType, set[str]] = {}


def _marks(function) -> set[str]:
    """Of what a function names, directly or through helpers in tests/."""
    function = inspect.unwrap(function)
    if not isinstance(function, FunctionType):
        return set()
    if function not in _known:
        _known[function] = set()  # for functions that call each other
        found: set[str] = set()
        for value in _named(function):
            name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
            if name in USES:
                found.add(USES[name])
            elif isinstance(value, type) and _is_ours(value.__module__):
                for member in vars(value).values():
                    found |= _marks(getattr(member, "__func__", member))
            elif callable(value) and _is_ours(getattr(value, "__module__", None)):
                found |= _marks(value)
        _known[function] = found
    return _known[function]


def _named(function: FunctionType) -> list:
    """The objects that the code of a function names: globals, and attributes of modules among them."""
    names = _names(function.__code__)
    values = [function.__globals__[name] for name in names if name in function.__globals__]
    modules = [
        value
        for value in values
        if isinstance(value, ModuleType) and (value.__name__ in MODULES or _is_ours(value.__name__))
    ]
    return values + [getattr(module, name) for module in modules for name in names if hasattr(module, name)]


def _names(code: CodeType) -> set[str]:
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _is_ours(module: str | None) -> bool:
    return str(getattr(sys.modules.get(module or ""), "__file__", "")).startswith(f"{TESTS}/")

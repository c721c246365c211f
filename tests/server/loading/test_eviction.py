"""Which model is unloaded, what is free, and when a model is loaded again, as recorded."""

from types import SimpleNamespace

import recorded

from vkbackend.device.context import free_bytes
from vkbackend.server.loading.eviction import Resident, first_to_unload
from vkbackend.server.loading.loaded_model import LoadedModel, LoadResult
from vkbackend.server.loading.loaded_models import MIN_CONTEXT
from vkbackend.server.wire.options import Options


def test_first_to_unload():
    def got_and_wanted(vector):
        residents = [Resident(entry["model"], entry["ref_count"], entry["keep_alive_ns"]) for entry in vector["loaded"]]
        found = first_to_unload(residents)
        return None if found is None else residents[found].name, vector["output"]

    recorded.check(recorded.load("scheduler", "runner_to_unload"), got_and_wanted)


def test_free_memory_with_models_loaded():
    def got_and_wanted(vector):
        def taken(device):
            return (
                sum(runner.get(device["id"], 0) for runner in vector["vulkan_vram_by_runner"])
                if device["library"] == "Vulkan"
                else 0
            )

        return [
            free_bytes(device["free_memory"], device["total_memory"], taken(device)) for device in vector["devices"]
        ], vector["free_after"]

    recorded.check(recorded.load("scheduler", "update_free_space"), got_and_wanted)


def stored(**changes):
    return SimpleNamespace(
        **{"name": "a:latest", "gguf_path": "w", "adapter_paths": ["x"], "projector_paths": ["y"]} | changes
    )


def loaded(options, model=None) -> LoadedModel:
    return LoadedModel(
        model or stored(), options, LoadResult(SimpleNamespace(failure=None), None, None, 1, 1, 64, lambda: None), 0.0
    )


def test_when_a_model_is_loaded_again():
    def got_and_wanted(vector):
        what, _, values = vector["change"].partition(" ")
        before, asked, wanted = Options.defaults(), Options.defaults(), stored()
        model = loaded(before)
        if "->" in values and what in vars(before):
            old, new = values.split(" -> ")
            before.update({what: float(old)})
            asked.update({what: float(new)})
        elif vector["change"] == "adapters nil -> empty list":
            model, wanted = loaded(before, stored(adapter_paths=None)), stored(adapter_paths=[])
        elif what in ("adapters", "projectors"):
            wanted = stored(**{f"{what[:-1]}_paths": ["z"]})
        elif what == "ping":
            model.engine.failure = RuntimeError("device lost")
        else:
            assert vector["change"] == "unloaded"
            model.close()
        return not model.serves(wanted, asked), vector["output"]

    recorded.check(recorded.load("scheduler", "needs_reload"), got_and_wanted)


def test_options_of_the_model_and_of_the_request(monkeypatch):
    monkeypatch.delenv("OLLAMA_CONTEXT_LENGTH", raising=False)

    def got_and_wanted(vector):
        found = Options.defaults().update(vector["model_parameters"]).update(vector["request_options"])
        return {name: getattr(found, name) for name in vector["output"]}, vector["output"]

    recorded.check(recorded.load("scheduler", "model_options"), got_and_wanted)


def test_context_lengths():
    """Vision models get no larger contexts than others, unlike once in the original."""
    recorded.check(
        recorded.load("scheduler", "scheduled_num_ctx"),
        lambda vector: (max(vector["num_ctx"], MIN_CONTEXT), vector["output"]),
    )


def test_every_kind_is_tested():
    kinds = {vector["kind"] for vector in recorded.load("scheduler")}
    assert kinds == {"runner_to_unload", "update_free_space", "needs_reload", "model_options", "scheduled_num_ctx"}

"""Whole tiny models: the device against the twins, batches against single sequences, and the runner's bookkeeping."""

import numpy as np
import pytest
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend import settings
from vkbackend.device.dispatch import Program
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import MAX_OUTPUTS, PAGE_SIZE, ModelRunner
from vkbackend.errors import DeviceError, OutOfMemory, RequestError
from vkbackend.graph.step import CANDIDATES, PageTable, StepInputs, StepShape
from vkbackend.loading import load
from vkbackend.ops.packed import FORMATS

PROMPT = [
    3,
    50,
    99,
    7,
    7,
    120,
    200,
    31,
    64,
    5,
    18,
    77,
    210,
    4,
    150,
    33,
    92,
    11,
    240,
    66,
    8,
    1,
    130,
    45,
    61,
    17,
    29,
    180,
    222,
    14,
    90,
    41,
    55,
    70,
    2,
    101,
    9,
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """tiny(architecture, format, device, **options of ModelRunner) makes a runner with a new cache; files and weights
    are shared.
    """
    folder, models = tmp_path_factory.mktemp("models"), {}

    def make(architecture="llama", format="q8_0", device=None, num_layers=2, **options):
        key = architecture, format, num_layers, id(device), settings.get("VKBACKEND_CPU")
        if key not in models:
            path = folder / f"{architecture}-{format}-{num_layers}.gguf"
            if not path.exists():
                write_tiny_gguf(path, architecture, format, num_layers=num_layers)
            models[key] = load(path, device)
        sizes = {"context_length": 256, "max_sequences": 4, "prefill_chunk": 16, "num_threads": 1}
        return ModelRunner(models[key], **(sizes | options))

    return make


def logits(runner, sequence, tokens, outputs=1) -> np.ndarray:
    return np.stack([row.full() for row in runner.step([SequenceWork(sequence, tokens, outputs)])])


def follow(runner, tokens, outputs=1) -> np.ndarray:
    """The logits of a new sequence after `tokens`."""
    return logits(runner, runner.open_sequence(), tokens, outputs)


def assert_close(found, expected):
    """Sums in another order differ by a few units of float32, relative to the largest logit of the row."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(np.asarray(found).view(np.uint32), np.asarray(expected).view(np.uint32))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("format", FORMATS)
def test_device_agrees_with_twins(tiny, device, architecture, format):
    """Prefill in two chunks, then decode, with an f32 cache, so that no value is rounded differently."""
    rows = []
    for where in (device, None):
        runner = tiny(architecture, format, where, kv_type="f32")
        sequence = runner.open_sequence()
        rows.append(
            [
                logits(runner, sequence, PROMPT[:20])[0],
                logits(runner, sequence, [17])[0],
                logits(runner, sequence, [201])[0],
            ]
        )
    assert_close(rows[0], rows[1])
    assert np.std(rows[1][-1]) > 0.05 and not np.allclose(rows[1][-1], rows[1][-2], atol=1e-2), (
        "a model that says the same of everything tests nothing"
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision_cache_agrees_with_twins(tiny, device, architecture):
    """Both round keys and values to half floats. Values near the middle between two of them can differ by one unit."""
    found, expected = (follow(tiny(architecture, "f32", where, kv_type="f16"), PROMPT) for where in (device, None))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * np.abs(expected).max())
    precise = follow(tiny(architecture, "f32", device, kv_type="f32"), PROMPT)
    assert not np.array_equal(found, precise), "the f16 cache was not used"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cache_of_bytes_agrees_with_twins(tiny, device, architecture):
    """Values near the middle between two codes can differ by one. Tests prompt and decode, which have separate kernels
    for storing.
    """
    rows = []
    for where, kind in ((device, "q8_0"), (None, "q8_0"), (device, "f32")):
        runner = tiny(architecture, "f32", where, kv_type=kind)
        sequence = runner.open_sequence()
        rows.append(
            np.concatenate(
                [logits(runner, sequence, PROMPT), *(logits(runner, sequence, [token]) for token in (17, 201, 5))]
            )
        )
    found, expected, precise = rows
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-2 * largest)
    assert np.abs(found - expected).mean() < 0.3 * np.abs(precise - expected).mean(), (
        "rounding is the same on both sides"
    )


def test_decode_bits_with_a_cache_of_bytes_do_not_depend_on_the_batch(tiny, path_with_bits):
    prompts = [PROMPT[:5], PROMPT[:31], PROMPT[:20]]
    alone = []
    for prompt in prompts:
        runner = tiny("llama", "q4_1", path_with_bits, kv_type="q8_0")
        sequence = runner.open_sequence()
        logits(runner, sequence, prompt)
        alone.append([logits(runner, sequence, [token])[0] for token in (17, 201, 5)])
    runner = tiny("llama", "q4_1", path_with_bits, kv_type="q8_0")
    sequences = [runner.open_sequence() for _ in prompts]
    for sequence, prompt in zip(sequences, prompts):
        logits(runner, sequence, prompt)
    for step, token in enumerate((17, 201, 5)):
        rows = [row.full() for row in runner.step([SequenceWork(sequence, [token], 1) for sequence in sequences])]
        assert_same_bits(rows, [each[step] for each in alone])


def test_local_and_global_layers(tiny, device):
    """Seven gemma3 layers: the sixth sees everything, the others a window of 24, which the prompt exceeds."""
    found, expected = (
        follow(tiny("gemma3", "q4_0", where, num_layers=7, kv_type="f32"), PROMPT * 2) for where in (device, None)
    )
    assert_close(found, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mixed_formats_in_one_layer(tmp_path, device, architecture):
    """q, k and v of different formats do not stack: three products into one buffer, as in K-quantized files."""
    path = write_tiny_gguf(
        tmp_path / "mixed.gguf",
        architecture,
        "q4_k",
        formats={"blk.0.attn_v": "q6_k", "blk.1.attn_k": "q5_0", "blk.1.ffn_up": "q8_0"},
    )
    found, expected = (
        follow(ModelRunner(load(path, where), context_length=64, kv_type="f32"), PROMPT[:12])
        for where in (device, None)
    )
    assert_close(found, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_output_row(tiny, device, architecture):
    """Rows for all tokens of a prompt, more than one step can return, equal those of shorter prompts."""
    tokens = (PROMPT * 2)[: MAX_OUTPUTS + 9]
    runner = tiny(architecture, "q8_0", device)
    rows = follow(runner, tokens, outputs=len(tokens))
    assert rows.shape == (len(tokens), runner.vocab_size)
    for length in (1, 16, 17, len(tokens)):
        assert_close(rows[length - 1], follow(tiny(architecture, "q8_0", device), tokens[:length])[0])


def test_candidates_and_log_sum_exp(tiny, device):
    runner = tiny("llama", "q8_0", device)
    (row,) = runner.step([SequenceWork(runner.open_sequence(), PROMPT, 1)])
    whole = row.full()
    assert len(row.ids) >= CANDIDATES
    np.testing.assert_array_equal(row.logits, whole[row.ids])
    np.testing.assert_array_equal(row.ids, np.lexsort((np.arange(len(whole)), -whole))[: len(row.ids)])
    assert row.log_sum_exp == pytest.approx(np.log(np.exp(whole.astype(np.float64)).sum()), abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decode_bits_do_not_depend_on_the_batch(tiny, path_with_bits, architecture):
    """Four sequences of different lengths in one step, and each alone: the same bits, step after step."""
    alone, together = tiny(architecture, "q4_1", path_with_bits), tiny(architecture, "q4_1", path_with_bits)
    prompts = [PROMPT[:3], PROMPT[:16], PROMPT[2:35], PROMPT[:1]]
    single, batch = ([runner.open_sequence() for _ in prompts] for runner in (alone, together))
    for index, prompt in enumerate(prompts):
        for runner, sequences in ((alone, single), (together, batch)):
            runner.step([SequenceWork(sequences[index], prompt)])
    for token in (12, 200, 5):
        rows = together.step([SequenceWork(sequence, [token + index], 1) for index, sequence in enumerate(batch)])
        whole = [row.full() for row in rows]
        for index, sequence in enumerate(single):
            assert_same_bits(whole[index], logits(alone, sequence, [token + index])[0])
    three = together.step([SequenceWork(batch[index], [9], 1) for index in (2, 0, 3)])
    for row, index in zip([row.full() for row in three], (2, 0, 3)):
        assert_same_bits(row, logits(alone, single[index], [9])[0])


@pytest.mark.parametrize("where", ["device", "discrete_device"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decode_bits_do_not_depend_on_the_context_of_others(tiny, request, architecture, where):
    """Alone, the heads of a long context are split over groups, those of a short one are not. Together, all are split
    on a GPU, and none on a CPU device, whose threads have enough work. The bits are the same.
    """
    runner = tiny(
        architecture, "q4_1", request.getfixturevalue(where), context_length=1152, max_sequences=3, prefill_chunk=128
    )
    sequences = [runner.open_sequence() for _ in range(3)]
    for sequence, length in zip(sequences, (1090, 300, 5)):
        runner.step([SequenceWork(sequence, (PROMPT * 30)[:length])])
    alone = []
    for sequence in sequences:
        length = runner.length(sequence)
        alone.append([logits(runner, sequence, [token])[0] for token in (12, 200)])
        runner.truncate(sequence, length)
    for step, token in enumerate((12, 200)):
        rows = runner.step([SequenceWork(sequence, [token], 1) for sequence in sequences])
        for row, expected in zip(rows, alone):
            assert_same_bits(row.full(), expected[step])
    assert {(shape.num_tokens, shape.splits > 1) for shape in runner.executor._plans if shape.decode} == {
        (1, False),
        (1, True),
        (4, where == "discrete_device"),
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("format", ["q4_1", "q6_k", "f16"])
def test_bits_do_not_depend_on_what_was_cached(tiny, path_with_bits, architecture, format):
    """The same bits for a prompt computed whole, and for one of which any part at the beginning is cached."""
    runner = tiny(architecture, format, path_with_bits)
    sequence = runner.open_sequence()
    whole = logits(runner, sequence, PROMPT)[0]
    for cached in (len(PROMPT) - 1, len(PROMPT) - 2, 20, 16, 3, 0):
        runner.truncate(sequence, cached)
        assert_same_bits(logits(runner, sequence, PROMPT[cached:])[0], whole)


def test_prefill_and_decode_in_one_step(tiny, path_with_bits):
    """A step with a prompt of one sequence and a token of another."""
    runner = tiny("llama", "q8_0", path_with_bits)
    first, second = runner.open_sequence(), runner.open_sequence()
    runner.step([SequenceWork(first, PROMPT[:9])])
    rows = runner.step([SequenceWork(second, PROMPT[:7], 1), SequenceWork(first, [77], 1)])
    assert_close(rows[0].full(), follow(runner, PROMPT[:7])[0])
    assert_close(logits(runner, first, [3])[0], follow(tiny("llama", "q8_0", path_with_bits), [*PROMPT[:9], 77, 3])[0])


@pytest.mark.parametrize("chunk", [1, 5, 16, 64])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chunked_prefill_equals_whole(tiny, path_with_bits, architecture, chunk):
    assert_close(
        follow(tiny(architecture, "q8_0", path_with_bits, prefill_chunk=chunk, max_sequences=1), PROMPT),
        follow(tiny(architecture, "q8_0", path_with_bits, prefill_chunk=128), PROMPT),
    )


def test_steps_of_other_sizes_in_between_change_nothing(tiny, device, discrete_device):
    """Plans share memory. A step recorded before a larger one must still read where it writes."""
    for where in (device, discrete_device):
        steady, disturbed = tiny("llama", "q8_0", where), tiny("llama", "q8_0", where)
        ids = [runner.open_sequence() for runner in (steady, disturbed)]
        for runner, sequence in zip((steady, disturbed), ids):
            runner.step([SequenceWork(sequence, PROMPT[:4], 1)])
        for token in (40, 41, 42):
            follow(disturbed, PROMPT[: token - 20], outputs=token - 38)
            runner_rows = [
                runner.step([SequenceWork(sequence, [token], 1)])[0]
                for runner, sequence in zip((steady, disturbed), ids)
            ]
            np.testing.assert_array_equal(runner_rows[0].ids, runner_rows[1].ids)
            assert runner_rows[0].log_sum_exp == runner_rows[1].log_sum_exp
            assert_same_bits(runner_rows[0].logits, runner_rows[1].logits)
            assert_same_bits(runner_rows[0].full(), runner_rows[1].full())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_bits_in_one_submission_and_in_many(tiny, device, monkeypatch, architecture):
    """All parts of a step are submitted at once. Each must see what the one before it wrote."""
    expected = follow(tiny(architecture, "q8_0", device), PROMPT[:16], outputs=4)
    monkeypatch.setattr("vkbackend.graph.recorded_step.SUBMISSION_FLOPS", 1e6)
    runner = tiny(architecture, "q8_0", device)
    for _ in range(3):
        assert_same_bits(follow(runner, PROMPT[:16], outputs=4), expected)
    assert len(runner.executor._last.programs) > 4


def test_a_long_context_is_cut_into_more_submissions_with_the_same_bits(tiny, device, monkeypatch):
    """A step's submissions depend on how many positions its tokens see, not only on their number. None does more work
    than the limit, whatever it consists of.
    """
    prompt = [token % 200 + 3 for token in range(1100)]
    options = {"context_length": 2048, "prefill_chunk": 64}
    expected = follow(tiny("llama", "q8_0", device, **options), prompt, outputs=4)
    most = 6e6
    monkeypatch.setattr("vkbackend.graph.recorded_step.SUBMISSION_FLOPS", most)
    monkeypatch.setattr("vkbackend.ops.op.MOST_FLOPS", most)
    runner = tiny("llama", "q8_0", device, **options)
    assert_same_bits(follow(runner, prompt, outputs=4), expected)
    steps = runner.executor._plans
    num_submissions = {shape.longest: len(steps[shape].programs) for shape in steps if shape.num_tokens == 64}
    assert set(num_submissions) == {0, 4096}
    assert num_submissions[4096] > num_submissions[0]
    assert {"attention", "matmul_q8_0"} <= {each.label for step in steps.values() for each in step.dispatches}
    programs = [program for step in steps.values() for program in step.programs]
    assert all(sum(dispatch.flops for dispatch in program.dispatches) <= most for program in programs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_bits_on_a_device_with_memory_of_its_own(tiny, integrated_device, discrete_device, architecture):
    """Two GPUs with the same kernels. On one, weights go through the upload ring and results are copied; nothing else
    differs.
    """
    results = []
    for where in (integrated_device, discrete_device):
        runner = tiny(architecture, "q5_0", where)
        sequence = runner.open_sequence()
        results.append(np.concatenate([logits(runner, sequence, PROMPT, 3), logits(runner, sequence, [5])]))
    assert_same_bits(*results)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_intermediates_agree_with_twins(tiny, device, architecture):
    """Every named intermediate of both executors, in the order of the graph: the first difference names the op."""
    runners = [tiny(architecture, "f16", where, kv_type="f32", keep=True) for where in (device, None)]
    for runner in runners:
        follow(runner, PROMPT[:8])
    graph = runners[1].executor._plan(StepShape(8, 1), runners[0].executor.table_shape).graph
    names = list(
        dict.fromkeys(
            node.name
            for node in graph.nodes
            if node.op.name in ("embed", "rms_norm", "matmul", "attention", "silu_mul", "gelu_mul")
        )
    )
    assert {"embed", "blk.0.attention", "blk.1.ffn_norm", "output_norm"} <= set(names)
    for name in names:
        found, expected = (runner.executor.read(name) for runner in runners)
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5 * max(np.abs(expected).max(), 1e-3), err_msg=name)


def test_read_says_what_there_is(tiny, device):
    runner = tiny("llama", "q8_0", device, keep=True)
    follow(runner, [1, 2])
    with pytest.raises(KeyError, match="blk.9.nothing; there are: .*blk.1.attention"):
        runner.executor.read("blk.9.nothing")
    plain = tiny("llama", "q8_0", device)
    follow(plain, [1, 2])
    with pytest.raises(ValueError, match="keep=True"):
        plain.executor.read("blk.0.attention")


def test_timings_name_each_dispatch(tiny, device):
    runner = tiny("llama", "q8_0", device, timestamps=True)
    follow(runner, PROMPT[:16])
    timings = runner.executor.timings()
    assert [dispatch.label for dispatch, _ in timings][:2] == ["embed", "matmul_q8_0"]
    assert all(0 <= seconds < 5 for _, seconds in timings)
    assert sum(seconds for _, seconds in timings) > 0


@pytest.mark.parametrize("where", ["device", "twins"])
def test_truncate_forgets(tiny, request, where):
    runner = tiny("llama", "q8_0", request.getfixturevalue("device") if where == "device" else None)
    sequence = runner.open_sequence()
    before = logits(runner, sequence, PROMPT)
    runner.step([SequenceWork(sequence, [9, 9, 9, 9, 9])])
    runner.truncate(sequence, len(PROMPT) - 1)
    assert runner.length(sequence) == len(PROMPT) - 1
    assert_close(logits(runner, sequence, PROMPT[-1:]), before)
    runner.truncate(sequence, 0)
    assert_close(logits(runner, sequence, PROMPT), before)
    with pytest.raises(ValueError, match="cannot truncate"):
        runner.truncate(sequence, len(PROMPT) + 1)


def bookkeeping(runner):
    return (
        {key: (sequence.length, list(sequence.pages)) for key, sequence in runner.sequences.items()},
        sorted(runner.pages.free_pages),
        sorted(runner.pages.free_slots),
    )


def test_step_is_all_or_nothing(tiny, device, monkeypatch):
    """A step that fails for any reason leaves every sequence unchanged, and the next one works."""
    runner = tiny("llama", "q8_0", device, context_length=64, max_sequences=2)
    first, second = runner.open_sequence(), runner.open_sequence()
    runner.step([SequenceWork(first, PROMPT[:30]), SequenceWork(second, PROMPT[:10])])
    before = bookkeeping(runner)
    with pytest.raises(OutOfMemory, match="do not fit a context of 64"):
        runner.step([SequenceWork(first, [1, 2, 3], 1), SequenceWork(second, [5] * 60, 1)])
    assert bookkeeping(runner) == before
    for token in (-1, runner.vocab_size):
        with pytest.raises(RequestError, match=f"token {token} is outside of the vocabulary of {runner.vocab_size}"):
            runner.step([SequenceWork(first, [1]), SequenceWork(second, [2, token], 1)])
        assert bookkeeping(runner) == before

    def lost(*_):
        raise DeviceError("the cable was pulled")

    for half in ("submit", "wait"):
        with monkeypatch.context() as patched:
            patched.setattr(Program, half, lost)
            with pytest.raises(DeviceError, match="cable"):
                runner.step([SequenceWork(first, [1] * 5, 1), SequenceWork(second, [2], 1)])
        assert bookkeeping(runner) == before
    after = [row.full() for row in runner.step([SequenceWork(first, [1], 1), SequenceWork(second, [2], 1)])]
    fresh = tiny("llama", "q8_0", device)
    assert_close(after[0], follow(fresh, [*PROMPT[:30], 1])[0])
    assert_close(after[1], follow(fresh, [*PROMPT[:10], 2])[0])


def test_pages_are_used_again(tiny, path_with_bits):
    """Sequences open and close until more tokens were stored than the cache can hold, so pages are in any order."""
    runner = tiny("llama", "q8_0", path_with_bits, context_length=64, max_sequences=3)
    whole = bookkeeping(runner)
    expected = follow(tiny("llama", "q8_0", path_with_bits), PROMPT)
    for turn in range(6):
        sequences = [runner.open_sequence() for _ in range(3)]
        with pytest.raises(OutOfMemory, match="OLLAMA_NUM_PARALLEL"):
            runner.open_sequence()
        runner.step([SequenceWork(sequences[turn % 3], [turn] * (PAGE_SIZE + 1))])
        assert_close(logits(runner, sequences[(turn + 1) % 3], PROMPT), expected)
        for index in (turn % 3, (turn + 2) % 3, (turn + 1) % 3):
            runner.close_sequence(sequences[index])
        assert bookkeeping(runner) == whole


def test_context_filled_to_the_last_token(tiny, path_with_bits):
    runner = tiny("llama", "q8_0", path_with_bits, context_length=PAGE_SIZE, max_sequences=1)
    sequence = runner.open_sequence()
    runner.step([SequenceWork(sequence, PROMPT[: PAGE_SIZE - 1])])
    assert_close(
        logits(runner, sequence, PROMPT[PAGE_SIZE - 1 : PAGE_SIZE]),
        follow(tiny("llama", "q8_0", path_with_bits), PROMPT[:PAGE_SIZE]),
    )
    with pytest.raises(OutOfMemory):
        runner.step([SequenceWork(sequence, [1], 1)])


def test_cache_that_does_not_fit_is_refused_before_it_is_made(tiny, device):
    with pytest.raises(OutOfMemory, match="the KV cache .* num_ctx"):
        tiny("llama", "q8_0", device, context_length=1 << 24)
    with pytest.raises(RequestError, match="OLLAMA_KV_CACHE_TYPE=q3 is not known; there are: f32, f16, q8_0"):
        tiny("llama", "q8_0", device, kv_type="q3")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_as_on_a_gpu(tiny, discrete_device, architecture):
    """A device treated as a GPU uses slices of K, tiles in shared memory and split attention. It agrees with the twins,
    with one order of sums for every step size.
    """
    found = [
        follow(tiny(architecture, "q4_k", discrete_device, kv_type="f32", prefill_chunk=chunk), PROMPT)
        for chunk in (1, 4, 16, 64)
    ]
    assert_close(found[0], follow(tiny(architecture, "q4_k", None, kv_type="f32"), PROMPT))
    for other in found[1:]:
        assert_same_bits(other, found[0])


def test_halves_of_a_step_in_the_wrong_order(tiny, device):
    executor = tiny("llama", "q8_0", device).executor
    step = StepInputs(
        *(np.array(values, np.int32) for values in ([3], [0], [0])),
        [PageTable(np.zeros(executor.table_shape, np.int32))],
        np.array([0], np.int32),
    )
    with pytest.raises(ValueError, match="no step was submitted"):
        executor.wait()
    executor.submit(step)
    with pytest.raises(ValueError, match="a step is running"):
        executor.submit(step)
    assert len(executor.wait()) == 1

"""Whole tiny models: the device against the twins, steps of any size, and the runner's bookkeeping."""

import numpy as np
import pytest
from tiny_gguf import ARCHITECTURES, write_tiny_gguf
from tiny_runner import PROMPT, assert_close, assert_same_bits, follow, logits

from vkbackend.device.dispatch import Program
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import MAX_OUTPUTS, PAGE_SIZE, ModelRunner
from vkbackend.errors import DeviceError, OutOfMemory, RequestError
from vkbackend.graph.step import CANDIDATES, PageTable, StepInputs, StepShape
from vkbackend.loading import load
from vkbackend.ops.matmul import LOOKED_UP, has_kernels
from vkbackend.ops.packed import FORMATS


@pytest.mark.parametrize(
    "architecture, format",
    [
        (each, name)
        for each in ARCHITECTURES
        for name, kind in FORMATS.items()
        if has_kernels(kind) and (each == "gemma3" or not name.startswith(LOOKED_UP))
    ],
)
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

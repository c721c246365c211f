"""Bits of tiny models: other sequences, the cache, submissions and kinds of memory do not change them."""

import numpy as np
import pytest
from tiny_gguf import ARCHITECTURES
from tiny_runner import PROMPT, assert_same_bits, follow, logits

from vkbackend.engine.contract import SequenceWork


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

"""Attention counts its work and is cut by tokens: drivers reset a device whose dispatch takes long."""

import numpy as np
import pytest

from vkbackend.device.dispatch import Program
from vkbackend.ops import attention, decode_attention
from vkbackend.ops.run import prepare


def test_the_ranges_of_a_step_cover_each_token_once():
    for num_tokens, num_seen in ((1, 1024), (512, 1024), (512, 131_072), (7, 262_144)):
        ranges = list(attention.token_ranges(num_tokens, 32, 128, num_seen))
        tokens = [first + index for first, count, _ in ranges for index in range(count)]
        assert tokens == list(range(num_tokens))
        assert sum(flops for _, _, flops in ranges) == 4 * 32 * 128 * num_tokens * num_seen
        assert all(flops <= attention.MOST_FLOPS for _, _, flops in ranges)


@pytest.mark.parametrize("longest, counted", [(1, 1024), (1024, 1024), (1025, 4096), (100_000, 262_144)])
def test_few_lengths_are_counted(longest, counted):
    assert attention.counted_longest(longest) == counted


CASES = [(op, case) for op in (attention.OP, decode_attention.OP) for case in op.cases]


@pytest.mark.parametrize("variant", [{}, {"heads_together": 1}, {"splits": 2}], ids=str)
@pytest.mark.parametrize("op, case", CASES, ids=[f"{op.name}, {case.label}" for op, case in CASES])
def test_a_cut_dispatch_computes_the_same_bits(device, monkeypatch, op, case, variant):
    inputs = case.make(np.random.default_rng(5))
    num_tokens = len(inputs[0])
    outputs = []
    for most, num_dispatches in ((attention.MOST_FLOPS, 1), (1, num_tokens)):
        monkeypatch.setattr(attention, "MOST_FLOPS", most)
        prepared = prepare(device, op, inputs, case.attrs, variant)
        assert len(prepared.dispatches) == num_dispatches
        Program(device, prepared.dispatches).run()
        outputs.append(prepared.results(device))
    for whole, cut in zip(*outputs):
        np.testing.assert_array_equal(np.asarray(whole), np.asarray(cut))


@pytest.mark.parametrize(
    "longest, capacity, window, seen",
    [(1024, 256, 0, 256), (4096, 131_072, 0, 4096), (4096, 131_072, 512, 512), (262_144, 131_072, 0, 131_072)],
)
def test_the_window_and_the_capacity_bound_the_work(longest, capacity, window, seen):
    assert attention.num_seen(longest, capacity, window) == seen


@pytest.mark.parametrize("op", [attention.OP, decode_attention.OP], ids=["attention", "decode_attention"])
def test_dispatches_count_what_their_tokens_may_see(device, op):
    """4 operations for each element of a head: a product and a sum for its key, the same for its value."""
    case = next(case for case in op.cases if case.label == "many chunks")
    inputs = case.make(np.random.default_rng(0))
    tokens, all_heads, head_dim = inputs[0].shape
    kv_heads = next(value for value in inputs if getattr(value, "ndim", 0) == 4).shape[2]
    heads = all_heads if op is attention.OP else all_heads - 2 * kv_heads
    for longest in (64, 128):  # the cases' pages hold more
        found = prepare(device, op, inputs, case.attrs, {"longest": longest}).dispatches
        assert [dispatch.flops for dispatch in found] == [4 * tokens * heads * head_dim * longest]

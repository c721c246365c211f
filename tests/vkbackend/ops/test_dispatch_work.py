"""Attention and products count their work and are cut by tokens: drivers reset a device whose dispatch takes long."""

import numpy as np
import pytest

from vkbackend.device.dispatch import Program
from vkbackend.ops import attention, decode_attention, matmul, op
from vkbackend.ops.matmul_kernels import SHARED
from vkbackend.ops.run import prepare

OF_A_TOKEN = {
    "attention over 1,024 positions": attention.token_flops(32, 128, 1024),
    "attention over 262,144 positions": attention.token_flops(32, 128, 262_144),
    "gate and up of an 8B": 2 * 2 * 14_336 * 4096,
    "a vocabulary of 262,144": 2 * 262_144 * 5376,
    "nothing": 0,
}


@pytest.mark.parametrize("flops", OF_A_TOKEN.values(), ids=OF_A_TOKEN)
@pytest.mark.parametrize("num_tokens", [1, 7, 128, 500])
def test_the_ranges_of_an_op_cover_each_token_once(num_tokens, flops):
    ranges = list(op.token_ranges(num_tokens, flops))
    assert [first + index for first, count, _ in ranges for index in range(count)] == list(range(num_tokens))
    assert [count * flops for _, count, _ in ranges] == [work for _, _, work in ranges]
    assert all(work <= op.MOST_FLOPS for _, _, work in ranges)
    assert len(ranges) <= max(2 * num_tokens * flops / op.MOST_FLOPS, 1) + 1


@pytest.mark.parametrize("longest, counted", [(1, 1024), (1024, 1024), (1025, 4096), (100_000, 262_144)])
def test_few_lengths_are_counted(longest, counted):
    assert attention.counted_longest(longest) == counted


def cut_cases():
    """(op, case, variant) to test in whole and cut."""
    for kind in (attention.OP, decode_attention.OP):
        for case in kind.cases:
            yield from ((kind, case, variant) for variant in ({}, {"heads_together": 1}, {"splits": 2}))
    for case in matmul.OP.cases:
        tokens = int(case.label.split()[1].split("x")[0])
        if tokens > 1 and case.label.startswith(("q4_1", "q6_k", "q8_0")) and "precision" not in case.attrs:
            yield from ((matmul.OP, case, variant) for variant in ({}, {"tile": SHARED}))


CASES = list(cut_cases())


@pytest.mark.parametrize(
    "kind, case, variant", CASES, ids=[f"{kind.name}, {case.label}, {variant}" for kind, case, variant in CASES]
)
def test_a_cut_dispatch_computes_the_same_bits(device, monkeypatch, kind, case, variant):
    inputs = case.make(np.random.default_rng(5))
    num_tokens = len(inputs[0])
    outputs = []
    for most, num_dispatches in ((op.MOST_FLOPS, 1), (1, num_tokens)):
        monkeypatch.setattr(op, "MOST_FLOPS", most)
        prepared = prepare(device, kind, inputs, case.attrs, variant)
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


@pytest.mark.parametrize("kind", [attention.OP, decode_attention.OP], ids=["attention", "decode_attention"])
def test_dispatches_count_what_their_tokens_may_see(device, kind):
    """4 operations for each element of a head: a product and a sum for its key, the same for its value."""
    case = next(case for case in kind.cases if case.label == "many chunks")
    inputs = case.make(np.random.default_rng(0))
    tokens, all_heads, head_dim = inputs[0].shape
    kv_heads = next(value for value in inputs if getattr(value, "ndim", 0) == 4).shape[2]
    heads = all_heads if kind is attention.OP else all_heads - 2 * kv_heads
    for longest in (64, 128):  # the cases' pages hold more
        found = prepare(device, kind, inputs, case.attrs, {"longest": longest}).dispatches
        assert [dispatch.flops for dispatch in found] == [4 * tokens * heads * head_dim * longest]

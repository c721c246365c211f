"""Attention with a window reads nothing before the window: those pages may belong to other sequences by then."""

from functools import partial

import numpy as np
import pytest

from vkbackend.ops.attention import variants
from vkbackend.ops.rope import turns_per_position
from vkbackend.ops.run import reference, run

HEADS, KV_HEADS, HEAD_DIM, PAGE, WINDOW = 4, 2, 64, 4, 9
POSITIONS = np.array([41, 61, 300], np.int32)  # a tile of positions spans several pages
SEQUENCES = np.arange(3, dtype=np.int32)
NUM_PAGES = 76  # of a sequence


def inputs_of(name, table, caches):
    if name == "attention":
        rows = np.random.default_rng(1).standard_normal((3, HEADS, HEAD_DIM), np.float32)
        return [rows, *caches, POSITIONS, SEQUENCES, table]
    rows = np.random.default_rng(1).standard_normal((3, HEADS + 2 * KV_HEADS, HEAD_DIM), np.float32)
    return [rows, POSITIONS, SEQUENCES, table, turns_per_position(1e4, HEAD_DIM), None, None, *caches]


ATTRS = {
    "attention": {"scale": 0.125, "window": WINDOW},
    "decode_attention": {"scale": 0.125, "window": WINDOW, "n_rot": HEAD_DIM, "pairing": "halves"},
}


@pytest.mark.parametrize("name", ATTRS)
def test_pages_before_a_window_are_not_read(device, name):
    """Their entries of the page table name a page of NaN."""
    rng = np.random.default_rng(0)
    table = rng.permutation(3 * NUM_PAGES).reshape(3, NUM_PAGES).astype(np.int32)
    caches = [rng.standard_normal((3 * NUM_PAGES + 1, PAGE, KV_HEADS, HEAD_DIM), np.float32) for _ in range(2)]
    stale = table.copy()
    for sequence, position in enumerate(POSITIONS):
        stale[sequence, : (position + 1 - WINDOW) // PAGE] = 3 * NUM_PAGES
    for cache in caches:
        cache[-1] = np.nan

    def output(function, pages, **variant):
        found = function(name, *inputs_of(name, pages, caches), **ATTRS[name], **variant)
        return found[0] if isinstance(found, tuple) else found

    np.testing.assert_array_equal(output(reference, stale), output(reference, table))
    for variant in variants(device, []):
        found, wanted = (output(partial(run, device), pages, variant=variant) for pages in (stale, table))
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, wanted)

"""Which layers share pages of the KV cache, and how many pages and bytes that makes."""

from types import SimpleNamespace

import pytest

from vkbackend.graph.cache_layout import CacheLayout, window_pages

CONFIG = SimpleNamespace(num_layers=6, num_kv_heads=2, head_dim=64)


def layout(config=CONFIG, **arguments) -> CacheLayout:
    sizes = {"context_length": 1000, "num_sequences": 2, "kind": "f16", "step_tokens": 128, "page_size": 32}
    return CacheLayout.of(config, **{**sizes, **arguments})


def test_layers_without_a_window_share_all_pages():
    found = layout()
    (group,) = found.groups
    assert (group.window, group.layers, group.pages_per_sequence, group.num_pages) == (0, tuple(range(6)), 32, 64)
    assert found.layer_bytes(3) == 2 * 64 * 32 * 2 * 64 * 2 and found.num_bytes == 6 * found.layer_bytes(3)
    assert found.layer_bytes(3, "float32") == 2 * found.layer_bytes(3)
    assert layout(kind="q8_0").layer_bytes(0) == 2 * 64 * 32 * 2 * (64 + 4)  # a scale of 2 bytes for 32 elements


def test_fewer_pages_take_no_more_than_there_is():
    found = layout()
    page_bytes = found.num_bytes // 64
    assert found.limited(40).num_bytes == 40 * page_bytes and found.limited(100) == found
    assert found.num_pages_within(10 * page_bytes) == 10 and found.num_pages_within(11 * page_bytes - 1) == 10
    assert found.num_pages_within(1 << 40) == 64 and found.num_pages_within(0) == 0


@pytest.mark.parametrize("page_size", [1, 4, 32])
@pytest.mark.parametrize("window", [1, 5, 24, 33])
@pytest.mark.parametrize("step_tokens", [1, 7, 64])
def test_a_window_and_a_step_fit_their_pages(window, step_tokens, page_size):
    def touched(first: int) -> int:
        begin, end = max(0, first + 1 - window), first + step_tokens
        return -(-end // page_size) - begin // page_size

    assert max(touched(first) for first in range(200)) == window_pages(window, step_tokens, page_size)

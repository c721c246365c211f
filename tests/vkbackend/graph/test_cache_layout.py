"""Which layers share pages of the KV cache, and how many pages and bytes that makes."""

from types import SimpleNamespace

import pytest
from real_shapes import GEMMA3_WINDOW, SHAPES

from vkbackend.architectures.gemma3 import GLOBAL_EVERY
from vkbackend.graph.cache_layout import CacheLayout, window_pages

GIB = 1 << 30


def config_of(*windows: int, num_kv_heads: int = 2, head_dim: int = 64) -> SimpleNamespace:
    """A config of layers with these windows."""
    sizes = {"num_layers": len(windows), "num_kv_heads": num_kv_heads, "head_dim": head_dim}
    return SimpleNamespace(**sizes, window_of=lambda layer: windows[layer])


WHOLE = config_of(0, 0, 0, 0, 0, 0)


def layout(config=WHOLE, **arguments) -> CacheLayout:
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


def test_layers_are_grouped_by_their_window():
    found = layout(config_of(100, 100, 0, 40, 100), num_snapshots=3)
    assert [(group.window, group.layers) for group in found.groups] == [(0, (2,)), (100, (0, 1, 4)), (40, (3,))]
    assert [group.pages_per_sequence for group in found.groups] == [32, 9, 7]  # 99 and 39 positions and a step of 128
    assert [group.num_pages for group in found.groups] == [64, 45, 35]  # two sequences and three snapshots
    assert [found.group_of(layer) for layer in range(5)] == [1, 1, 0, 2, 1]
    page_bytes = found.layer_bytes(2) // 64
    assert [found.layer_bytes(layer) // page_bytes for layer in range(5)] == [45, 45, 64, 35, 45]
    assert found.num_bytes == (64 + 3 * 45 + 35) * page_bytes
    with pytest.raises(KeyError, match="layer 5"):
        found.group_of(5)


def test_a_window_that_takes_as_many_pages_as_the_context_is_no_window():
    assert [group.window for group in layout(config_of(800, 900)).groups] == [0, 800]
    (group,) = layout(config_of(950, 900, 2000)).groups
    assert group.layers == (0, 1, 2) and group.num_pages == 64


def test_there_is_a_first_group_even_if_every_layer_has_a_window():
    whole, windowed = layout(config_of(100, 100)).groups
    assert whole.layers == () and whole.num_pages == 64 and windowed.layers == (0, 1)


def test_windows_keep_no_more_pages_than_the_whole_context_has():
    """Each of their pages belongs to the same tokens as a page of the whole context."""
    assert [group.num_pages for group in layout(config_of(100, 0), num_pages=20).groups] == [20, 20]
    assert [group.num_pages for group in layout(config_of(100, 0)).limited(30).groups] == [30, 30]


def test_snapshots_can_be_given_up():
    found = layout(config_of(100, 0), num_snapshots=3)
    assert [found.with_snapshots(count).groups[1].num_pages for count in (4, 3, 1, 0)] == [54, 45, 27, 18]
    assert found.with_snapshots(3) == found and found.with_snapshots(0).num_snapshots == 0
    assert found.limited(20).with_snapshots(1).groups[1].num_pages == 20


def test_full_windows_if_the_setting_says_so(monkeypatch):
    monkeypatch.setenv("VKBACKEND_FULL_WINDOWS", "1")
    (group,) = layout(config_of(100, 0)).groups
    assert group.layers == (0, 1)


@pytest.mark.parametrize("context_length, most", [(32_768, 0.9), (131_072, 2.9)])
def test_the_cache_of_gemma3_4b(context_length, most):
    """One sequence and one snapshot; each further snapshot takes at most 0.14 GiB. The whole context of every layer
    would take 4.25 GiB at 32,768 tokens and 17 GiB at 131,072.
    """
    shape = SHAPES["gemma4b"]
    windows = [0 if layer % GLOBAL_EVERY == GLOBAL_EVERY - 1 else GEMMA3_WINDOW for layer in range(shape.layers)]
    config = config_of(*windows, num_kv_heads=shape.kv_heads, head_dim=shape.head_dim)

    def gib(num_snapshots: int) -> float:
        sizes = {"context_length": context_length, "num_sequences": 1, "num_snapshots": num_snapshots}
        return layout(config, **sizes).num_bytes / GIB

    assert 0.8 * most < gib(1) <= most and gib(2) - gib(1) <= 0.14


@pytest.mark.parametrize("page_size", [1, 4, 32])
@pytest.mark.parametrize("window", [1, 5, 24, 33])
@pytest.mark.parametrize("step_tokens", [1, 7, 64])
def test_a_window_and_a_step_fit_their_pages(window, step_tokens, page_size):
    def touched(first: int) -> int:
        begin, end = max(0, first + 1 - window), first + step_tokens
        return -(-end // page_size) - begin // page_size

    assert max(touched(first) for first in range(200)) == window_pages(window, step_tokens, page_size)

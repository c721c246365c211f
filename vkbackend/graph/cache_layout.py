"""The sizes of a KV cache: which layers share pages, and how many pages they have.

In: a model's config and the sizes of a runner. Out: a `CacheLayout`, by which caches are allocated and memory is
counted before anything is loaded. Layers that see the same number of positions form a group. A group has a pool of
physical pages and a page table of its own, so that layers with a window keep the pages of that window only.
"""

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .. import settings
from ..ops import q8_cache
from ..ops.q8_cache import cache_bytes

if TYPE_CHECKING:
    from .model import Config  # which imports this module

log = logging.getLogger(__name__)

DTYPES = {"f32": "float32", "f16": "float16", "q8_0": q8_cache.NAME}  # OLLAMA_KV_CACHE_TYPE -> element type
MORE_SNAPSHOTS = 2  # windows of closed sequences that are kept, in addition to one for each sequence


def fitting_kind(kind: str, head_dim: int) -> str:
    """`kind`, a key of DTYPES, or "f16" if `kind` is q8_0 and a head is not a whole number of its blocks."""
    if DTYPES[kind] == q8_cache.NAME and head_dim % q8_cache.BLOCK:
        log.warning(
            "OLLAMA_KV_CACHE_TYPE=%s needs heads of a multiple of %d elements, this model's have %d; using f16",
            kind,
            q8_cache.BLOCK,
            head_dim,
        )
        return "f16"
    return kind


@dataclass(frozen=True)
class LayerGroup:
    """Layers that share a pool of pages and a page table.

    window: the number of positions that a token sees, its own included; 0: all
    layers: numbers of the model's layers
    pages_per_sequence: the most pages that one sequence holds
    num_pages: pages of the pool
    """

    window: int
    layers: tuple[int, ...]
    pages_per_sequence: int
    num_pages: int


@dataclass(frozen=True)
class CacheLayout:
    """Groups of layers, and the size of a page.

    groups: the first one sees the whole context and may have no layers; every page of another group belongs to the
    same tokens as a page of the first
    num_sequences: sequences that may be open
    num_snapshots: windows of closed sequences for which there is room, if the open ones hold all that they may
    kind: a key of DTYPES
    context_length: tokens that one sequence may have
    """

    groups: tuple[LayerGroup, ...]
    num_sequences: int
    num_snapshots: int
    kind: str
    page_size: int
    num_kv_heads: int
    head_dim: int
    context_length: int

    @classmethod
    def of(
        cls,
        config: "Config",
        *,
        context_length: int,
        num_sequences: int,
        kind: str,
        step_tokens: int,
        page_size: int,
        num_pages: int | None = None,
        num_snapshots: int | None = None,
    ) -> "CacheLayout":
        """The layout for `num_sequences` sequences of `context_length` tokens.

        kind: as `fitting_kind` returns it. step_tokens: the most tokens of one sequence in a step. num_pages: pages of
        the first group; None: as many as all sequences need. num_snapshots: windows of closed sequences that are kept;
        None: one for each sequence and MORE_SNAPSHOTS.
        """
        pages = -(-context_length // page_size)
        if num_pages is None:
            num_pages = pages * num_sequences
        if num_snapshots is None:
            num_snapshots = num_sequences + MORE_SNAPSHOTS
        layers: dict[int, list[int]] = {0: []}
        for layer in range(config.num_layers):
            window = 0 if settings.get("VKBACKEND_FULL_WINDOWS") else config.window_of(layer)
            keeps_window = window > 0 and window_pages(window, step_tokens, page_size) < pages
            layers.setdefault(window if keeps_window else 0, []).append(layer)
        groups = [LayerGroup(0, tuple(layers.pop(0)), pages, num_pages)]
        for window, members in layers.items():
            groups.append(LayerGroup(window, tuple(members), window_pages(window, step_tokens, page_size), num_pages))
        sizes = kind, page_size, config.num_kv_heads, config.head_dim, context_length
        return cls(tuple(groups), num_sequences, num_snapshots, *sizes).with_snapshots(num_snapshots)

    @property
    def num_pages(self) -> int:
        """Pages of the first group."""
        return self.groups[0].num_pages

    @property
    def num_bytes(self) -> int:
        """Bytes of all layers on a device."""
        return sum(self.layer_bytes(layer) for group in self.groups for layer in group.layers)

    def group_of(self, layer: int) -> int:
        """The index of a layer's group. Raises KeyError for a layer that does not exist."""
        for index, group in enumerate(self.groups):
            if layer in group.layers:
                return index
        raise KeyError(f"layer {layer}")

    def shape(self, layer: int) -> tuple[int, int, int, int]:
        """The shape of a layer's keys, and of its values: (pages, page_size, kv_heads, head_dim)."""
        return self.groups[self.group_of(layer)].num_pages, self.page_size, self.num_kv_heads, self.head_dim

    def layer_bytes(self, layer: int, dtype: str | None = None) -> int:
        """Bytes of a layer's keys and values. dtype: a value of DTYPES, if not that of `kind`."""
        return 2 * cache_bytes(self.shape(layer), dtype or DTYPES[self.kind])

    def with_snapshots(self, num_snapshots: int) -> "CacheLayout":
        """This layout with room for another number of snapshots. It works with none: more prompts run from their
        beginning.
        """
        whole, *windowed = self.groups
        holders = self.num_sequences + num_snapshots
        windowed = [
            replace(group, num_pages=min(holders * group.pages_per_sequence, whole.num_pages)) for group in windowed
        ]
        return replace(self, groups=(whole, *windowed), num_snapshots=num_snapshots)

    def limited(self, num_pages: int) -> "CacheLayout":
        """This layout with at most `num_pages` pages in the first group. The others keep no more pages than it has."""
        return replace(
            self, groups=tuple(replace(group, num_pages=min(group.num_pages, num_pages)) for group in self.groups)
        )


def window_pages(window: int, step_tokens: int, page_size: int) -> int:
    """The most pages that the positions of a step and the positions that it sees can touch."""
    positions = window - 1 + step_tokens
    return (positions + page_size - 2) // page_size + 1

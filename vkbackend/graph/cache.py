"""Storage of the KV cache: two paged tensors per layer, on a device or as numpy arrays for the twins."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..device.buffers import Arena, Buffer
from ..device.host_memory import available_host_memory
from ..ops import q8_cache
from ..ops.q8_cache import Q8Cache, cache_bytes
from .cache_layout import DTYPES, CacheLayout

# An f16 cache on the CPU is kept in f32, which is faster, if it takes at most this share of free memory.
SHARE_FOR_SPEED = 0.25


class HalfValues(np.ndarray):
    """A float32 array that rounds what is stored to float16. numpy reads it several times as fast as float16."""

    def __setitem__(self, at: Any, values: np.ndarray):
        super().__setitem__(at, np.asarray(values).astype(np.float16))


@dataclass(eq=False)
class CacheTensor:
    """Keys or values of one layer: (num_pages, page_size, kv_heads, head_dim); dtype is a value of DTYPES.

    buffer: on a device. array: on the CPU.
    """

    name: str
    shape: tuple[int, int, int, int]
    dtype: str
    buffer: Buffer | None = None
    array: np.ndarray | Q8Cache | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of memory, in the type that the cache is stored in."""
        if self.array is not None:
            return self.array.nbytes
        return cache_bytes(self.shape, self.dtype)


class CacheStorage:
    """The caches of some layers.

    layers: their numbers. arena: device memory for the caches; without one they are numpy arrays, f16 as `HalfValues`
    if there is enough free memory. reads_halves: what runs on the CPU reads float16 itself. `self.layers` maps each
    number to the layer's keys and values.
    """

    def __init__(
        self, layout: CacheLayout, layers: Iterable[int], arena: Arena | None = None, reads_halves: bool = False
    ):
        self.layout = layout
        dtype = DTYPES[layout.kind]
        numbers = list(layers)
        if arena is not None:
            arena.expect(sum(layout.layer_bytes(layer) for layer in numbers))
        f32_bytes = sum(layout.layer_bytes(layer, "float32") for layer in numbers)
        widens = arena is None and not reads_halves
        as_f32 = widens and _is_kept_in_f32(layout.kind, f32_bytes, available_host_memory())
        self.layers: dict[int, tuple[CacheTensor, CacheTensor]] = {}
        for layer in numbers:
            shape = layout.shape(layer)
            pair = (
                CacheTensor(f"blk.{layer}.k_cache", shape, dtype),
                CacheTensor(f"blk.{layer}.v_cache", shape, dtype),
            )
            for tensor in pair:
                if arena is None and dtype == q8_cache.NAME:
                    tensor.array = Q8Cache.zeros(shape)
                elif arena is None:
                    tensor.array = np.zeros(shape, np.float32).view(HalfValues) if as_f32 else np.zeros(shape, dtype)
                else:
                    tensor.buffer = arena.allocate(tensor.num_bytes)
            self.layers[layer] = pair

    @property
    def num_bytes(self) -> int:
        """Size of all layers' caches."""
        return sum(tensor.num_bytes for pair in self.layers.values() for tensor in pair)


def host_dtype(layout: CacheLayout, layers: Sequence[int], host_free: int, reads_halves: bool = False) -> str:
    """The element type in which the CPU path keeps the cache of `layers`, a value of DTYPES. host_free: bytes of free
    memory when the cache is made. reads_halves: as in `CacheStorage`.
    """
    f32_bytes = sum(layout.layer_bytes(layer, "float32") for layer in layers)
    return "float32" if not reads_halves and _is_kept_in_f32(layout.kind, f32_bytes, host_free) else DTYPES[layout.kind]


def _is_kept_in_f32(kind: str, f32_bytes: int, host_free: int) -> bool:
    """Whether a cache on the CPU is stored in f32, rounded to f16."""
    return kind == "f16" and f32_bytes <= SHARE_FOR_SPEED * host_free

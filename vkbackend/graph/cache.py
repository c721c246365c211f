"""Storage of the KV cache: two paged tensors per layer, on a device or as numpy arrays for the twins."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..device.buffers import Arena, Buffer
from ..device.host_memory import available_host_memory
from ..ops import q8_cache
from ..ops.q8_cache import Q8Cache, cache_bytes
from .cache_layout import DTYPES

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
        if self.array is not None:
            return self.array.nbytes
        return cache_bytes(self.shape, self.dtype)


class CacheStorage:
    """The caches of all layers.

    kind: a key of DTYPES. arena: device memory for them; without one they are numpy arrays, f16 as `HalfValues` if
    there is enough free memory.
    """

    def __init__(
        self,
        num_layers: int,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        head_dim: int,
        kind: str,
        arena: Arena | None = None,
    ):
        dtype = DTYPES[kind]
        self.page_size = page_size
        self.num_pages = num_pages
        self.num_kv_heads = num_kv_heads
        self.kind = kind
        shape = (num_pages, page_size, num_kv_heads, head_dim)
        num_elements = 2 * num_layers * int(np.prod(shape))
        if arena is not None:
            arena.expect(2 * num_layers * cache_bytes(shape, dtype))
        as_f32 = dtype == "float16" and arena is None and 4 * num_elements <= SHARE_FOR_SPEED * available_host_memory()
        self.layers: list[tuple[CacheTensor, CacheTensor]] = []  # keys and values of each
        for layer in range(num_layers):
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
            self.layers.append(pair)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for pair in self.layers for tensor in pair)

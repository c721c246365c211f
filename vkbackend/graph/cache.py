"""The KV cache's storage: two paged tensors per layer, on the device or as numpy arrays for the twins."""

import logging
from dataclasses import dataclass

import numpy as np

from ..device.host_memory import available_host_memory
from ..ops import q8_cache
from ..ops.q8_cache import Q8Cache, cache_bytes

log = logging.getLogger(__name__)

DTYPES = {"f32": "float32", "f16": "float16", "q8_0": q8_cache.NAME}  # OLLAMA_KV_CACHE_TYPE -> element type
SHARE_FOR_SPEED = 0.25  # of the memory that is free: a half-float cache of the twins that takes less is kept in f32


def fitting_kind(kind: str, head_dim: int) -> str:
    """A key of DTYPES: `kind`, or f16 where heads are no whole number of q8_0's blocks."""
    if DTYPES[kind] == q8_cache.NAME and head_dim % q8_cache.BLOCK:
        log.warning(
            "OLLAMA_KV_CACHE_TYPE=%s stores blocks of %d elements, heads of this model have %d: f16 is taken instead",
            kind,
            q8_cache.BLOCK,
            head_dim,
        )
        return "f16"
    return kind


class HalfValues(np.ndarray):
    """A float32 array whose elements are half floats: what is stored is rounded to them. numpy reads it several
    times as fast as float16.
    """

    def __setitem__(self, at, values):
        super().__setitem__(at, np.asarray(values).astype(np.float16))


@dataclass(eq=False)
class CacheTensor:
    """Keys or values of one layer: (num_pages, page_size, kv_heads, head_dim), element type `dtype` (a value of
    DTYPES).
    """

    name: str
    shape: tuple[int, int, int, int]
    dtype: str
    buffer: object = None  # device
    array: np.ndarray | Q8Cache | None = None  # twins

    @property
    def num_bytes(self) -> int:
        if self.array is not None:
            return self.array.nbytes
        return cache_bytes(self.shape, self.dtype)


class CacheStorage:
    """All layers' caches. kind: a key of DTYPES. `arena` None keeps them as numpy arrays: half floats as
    `HalfValues` where there is room for them.
    """

    def __init__(
        self, num_layers: int, num_pages: int, page_size: int, num_kv_heads: int, head_dim: int, kind: str, arena=None
    ):
        dtype = DTYPES[kind]
        self.page_size, self.num_pages, self.num_kv_heads, self.kind = page_size, num_pages, num_kv_heads, kind
        shape = (num_pages, page_size, num_kv_heads, head_dim)
        num_elements = 2 * num_layers * int(np.prod(shape))
        if arena is not None:
            arena.expect(2 * num_layers * cache_bytes(shape, dtype))
        as_f32 = dtype == "float16" and arena is None and 4 * num_elements <= SHARE_FOR_SPEED * available_host_memory()
        self.layers = []
        for layer in range(num_layers):
            pair = tuple(CacheTensor(f"blk.{layer}.{which}_cache", shape, dtype) for which in "kv")
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

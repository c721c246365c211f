"""A KV cache of bytes (OLLAMA_KV_CACHE_TYPE=q8_0): each block of 32 neighboring elements is stored as codes from -127
to 127 and one half-float scale, as in ggml's Q8_0.

`Q8Cache` takes the place of an array (pages, page_size, kv_heads, head_dim) in the twins. On a device
(shaders/cache.glsl) each head of a page is a run of `head_words` uint32: the codes of its positions in order, then
their scales, where each position starts a new word.
"""

import numpy as np
from numpy.typing import DTypeLike

from .signature import Rule

NAME = "q8_0"
TYPES = {"float32": 0, "float16": 1, NAME: 2}  # a cache's dtype -> the shaders' CACHE
KINDS = "f16|f32|q8_0"  # in signatures
BLOCK = 32  # elements that share a scale; head_dim is a multiple
Index = int | slice | list[int] | np.ndarray | tuple[np.ndarray, ...]


def head_words(page_size: int, head_dim: int) -> int:
    """uint32 words of one head of a page."""
    return page_size * (head_dim // 4 + _scale_words(head_dim))


def _scale_words(head_dim: int) -> int:
    """Words of scales per position: two blocks share a word."""
    return -(-head_dim // (2 * BLOCK))


def cache_bytes(shape: tuple[int, int, int, int], dtype: str) -> int:
    """Bytes of a cache (pages, page_size, kv_heads, head_dim) on a device."""
    pages, page_size, kv_heads, head_dim = shape
    return (
        4 * pages * kv_heads * head_words(page_size, head_dim)
        if dtype == NAME
        else int(np.prod(shape)) * np.dtype(dtype).itemsize
    )


def random(rng: np.random.Generator, shape: tuple[int, int, int, int], dtype: str) -> "Cache":
    """A cache for the twins, filled with normally distributed values."""
    values = rng.standard_normal(shape, np.float32)
    return Q8Cache.of(values) if dtype == NAME else values.astype(dtype)


RULES: tuple[Rule, ...] = (
    ("k_cache and v_cache must have one dtype", lambda s: s["k_cache"].dtype == s["v_cache"].dtype),
    (
        "a q8_0 cache needs a head_dim that is a multiple of 32 and a page_size that is a multiple of 4",
        lambda s: s["k_cache"].dtype != NAME or (s["head_dim"] % BLOCK == 0 and s["page_size"] % 4 == 0),
    ),
)


class Q8Cache:
    """Rounds to q8_0 on assignment and reads as f32. codes: int8 (pages, page_size, kv_heads, head_dim); scales: f16,
    one per block.
    """

    dtype = NAME

    def __init__(self, codes: np.ndarray, scales: np.ndarray):
        self.codes, self.scales = codes, scales

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> "Q8Cache":
        """A cache of zeros. shape: (pages, page_size, kv_heads, head_dim); head_dim is a multiple of 32."""
        return cls(np.zeros(shape, np.int8), np.zeros((*shape[:-1], shape[-1] // BLOCK), np.float16))

    @classmethod
    def of(cls, values: np.ndarray) -> "Q8Cache":
        """The values, f32 (pages, page_size, kv_heads, head_dim), rounded to q8_0."""
        cache = cls.zeros(values.shape)
        cache[:] = values
        return cache

    @property
    def shape(self) -> tuple[int, ...]:
        """(pages, page_size, kv_heads, head_dim)."""
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def copy(self) -> "Q8Cache":
        """A cache with arrays of its own."""
        return Q8Cache(self.codes.copy(), self.scales.copy())

    def __getitem__(self, at: Index) -> np.ndarray:
        """f32 elements. at: an index of the dimensions before the last."""
        values, scales = self.codes[at].astype(np.float32), self.scales[at].astype(np.float32)
        blocks = values.reshape(*scales.shape, BLOCK)  # a view
        blocks *= scales[..., None]
        return values

    def __setitem__(self, at: Index, values: np.ndarray) -> None:
        blocks = np.asarray(values, np.float32).reshape(*np.shape(values)[:-1], -1, BLOCK)
        unit = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
        wanted = blocks * np.divide(np.float32(1), unit, out=np.zeros_like(unit), where=unit > 0)
        size = np.abs(wanted)
        whole = np.floor(size)
        whole += np.floor(2 * (size - whole))  # halves away from zero
        self.codes[at] = (np.sign(wanted) * whole).reshape(np.shape(values))
        self.scales[at] = unit[..., 0]

    def __array__(self, dtype: DTypeLike = None) -> np.ndarray:
        return self[:].astype(dtype or np.float32, copy=False)

    def packed(self) -> np.ndarray:
        """The layout on a device: uint8 (pages, kv_heads, 4 * head_words)."""
        pages, page_size, kv_heads, head_dim = self.shape
        scales = np.zeros((pages, kv_heads, page_size, 2 * _scale_words(head_dim)), np.float16)
        scales[..., : head_dim // BLOCK] = self.scales.transpose(0, 2, 1, 3)
        parts = self.codes.transpose(0, 2, 1, 3), scales
        return np.concatenate(
            [np.ascontiguousarray(part).view(np.uint8).reshape(pages, kv_heads, -1) for part in parts], axis=-1
        )

    @classmethod
    def unpacked(cls, data: np.ndarray, shape: tuple[int, ...]) -> "Q8Cache":
        """The inverse of `packed`. data: uint8, of any shape."""
        pages, page_size, kv_heads, head_dim = shape
        data = data.reshape(pages, kv_heads, -1)
        codes = np.ascontiguousarray(data[..., : page_size * head_dim])
        scales = np.ascontiguousarray(data[..., page_size * head_dim :])
        scales = scales.view(np.float16).reshape(pages, kv_heads, page_size, -1)[..., : head_dim // BLOCK]
        return cls(
            codes.view(np.int8).reshape(pages, kv_heads, page_size, head_dim).transpose(0, 2, 1, 3),
            scales.transpose(0, 2, 1, 3),
        )


Cache = np.ndarray | Q8Cache  # of the twins: (pages, page_size, kv_heads, head_dim)

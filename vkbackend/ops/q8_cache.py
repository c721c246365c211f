"""A KV cache of bytes (OLLAMA_KV_CACHE_TYPE=q8_0): the 32 neighbouring elements of a block are multiples of one half
float, from -127 to 127 of it, as in ggml's Q8_0.

`Q8Cache` is what the twins have in place of an array (pages, page_size, kv_heads, head_dim). On a device
(shaders/cache.glsl) each head of a page is a piece of `head_words` uint32: the codes of its positions, one after the
other, then their scales, each position's beginning a word.
"""

import numpy as np

NAME = "q8_0"
TYPES = {"float32": 0, "float16": 1, NAME: 2}  # a cache's dtype -> the shaders' CACHE
KINDS = "f16|f32|q8_0"  # in signatures
BLOCK = 32  # head_dim is a multiple of it


def head_words(page_size: int, head_dim: int) -> int:
    return page_size * (head_dim // 4 + _scale_words(head_dim))


def _scale_words(head_dim: int) -> int:
    """Of a position: two blocks share a word."""
    return -(-head_dim // (2 * BLOCK))


def cache_bytes(shape: tuple[int, int, int, int], dtype: str) -> int:
    """Of a cache (pages, page_size, kv_heads, head_dim) on a device."""
    pages, page_size, kv_heads, head_dim = shape
    return (
        4 * pages * kv_heads * head_words(page_size, head_dim)
        if dtype == NAME
        else int(np.prod(shape)) * np.dtype(dtype).itemsize
    )


def random(rng, shape: tuple[int, int, int, int], dtype: str):
    """A cache for the twins, filled."""
    values = rng.standard_normal(shape, np.float32)
    return Q8Cache.of(values) if dtype == NAME else values.astype(dtype)


RULES = (
    ("k_cache and v_cache must have one dtype", lambda s: s["k_cache"].dtype == s["v_cache"].dtype),
    (
        "in a cache of q8_0 head_dim must be a multiple of 32 and page_size of 4",
        lambda s: s["k_cache"].dtype != NAME or (s["head_dim"] % BLOCK == 0 and s["page_size"] % 4 == 0),
    ),
)


class Q8Cache:
    """What is stored is rounded, what is read is f32. codes: int8 (pages, page_size, kv_heads, head_dim); scales:
    f16, one per block.
    """

    dtype = NAME

    def __init__(self, codes: np.ndarray, scales: np.ndarray):
        self.codes, self.scales = codes, scales

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> "Q8Cache":
        return cls(np.zeros(shape, np.int8), np.zeros((*shape[:-1], shape[-1] // BLOCK), np.float16))

    @classmethod
    def of(cls, values: np.ndarray) -> "Q8Cache":
        cache = cls.zeros(values.shape)
        cache[:] = values
        return cache

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes

    def copy(self) -> "Q8Cache":
        return Q8Cache(self.codes.copy(), self.scales.copy())

    def __getitem__(self, at) -> np.ndarray:
        """at: of the dimensions before the last. -> f32"""
        values, scales = self.codes[at].astype(np.float32), self.scales[at].astype(np.float32)
        blocks = values.reshape(*scales.shape, BLOCK)  # a view
        blocks *= scales[..., None]
        return values

    def __setitem__(self, at, values) -> None:
        blocks = np.asarray(values, np.float32).reshape(*np.shape(values)[:-1], -1, BLOCK)
        unit = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
        wanted = blocks * np.divide(np.float32(1), unit, out=np.zeros_like(unit), where=unit > 0)
        size = np.abs(wanted)
        whole = np.floor(size)
        whole += np.floor(2 * (size - whole))  # halves away from zero
        self.codes[at] = (np.sign(wanted) * whole).reshape(np.shape(values))
        self.scales[at] = unit[..., 0]

    def __array__(self, dtype=None) -> np.ndarray:
        return self[:].astype(dtype or np.float32, copy=False)

    def packed(self) -> np.ndarray:
        """As it lies on a device -> uint8 (pages, kv_heads, 4 * head_words)."""
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
        codes, scales = (
            np.ascontiguousarray(data[..., : page_size * head_dim]),
            np.ascontiguousarray(data[..., page_size * head_dim :]),
        )
        scales = scales.view(np.float16).reshape(pages, kv_heads, page_size, -1)[..., : head_dim // BLOCK]
        return cls(
            codes.view(np.int8).reshape(pages, kv_heads, page_size, head_dim).transpose(0, 2, 1, 3),
            scales.transpose(0, 2, 1, 3),
        )

"""Store a step's keys and values in the pages of the cache, in place.

k, v: (T, kv_heads, head_dim) f32, positions, sequences: (T,) i32 (position negative: slot unused), page_table: (S,
P) i32, k_cache, v_cache: (pages, page_size, kv_heads, head_dim) f16, f32 or q8_0 -> the caches. head_dim is even: an
invocation writes two elements, or two blocks of q8_0.
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from . import q8_cache
from .op import Case, Op, TensorView, ceil_div
from .q8_cache import Cache
from .signature import Signature


def reference(
    k: np.ndarray,
    v: np.ndarray,
    positions: np.ndarray,
    sequences: np.ndarray,
    page_table: np.ndarray,
    k_cache: Cache,
    v_cache: Cache,
) -> tuple[Cache, Cache]:
    """The numpy twin."""
    used = positions >= 0
    position = positions[used]
    page_size = k_cache.shape[1]
    page, slot = page_table[sequences[used], position // page_size], position % page_size
    k_cache[page, slot] = k[used]
    v_cache[page, slot] = v[used]
    return k_cache, v_cache


def dispatch(device: Device, inputs: Sequence[TensorView], outputs: Sequence[TensorView]) -> list[Dispatch]:
    """One invocation per two elements, or two blocks of q8_0."""
    k, v, positions, sequences, page_table = inputs[:5]
    k_cache, v_cache = outputs
    width, head_dim = k.row_elements, k.shape[2]
    invocations = k.shape[1] * ceil_div(head_dim, 2 * q8_cache.BLOCK) if k_cache.dtype == q8_cache.NAME else width // 2
    return [
        Dispatch(
            "kv_write",
            (k.buffer, v.buffer, positions.buffer, sequences.buffer, page_table.buffer),
            (k_cache.buffer, v_cache.buffer),
            (ceil_div(invocations, 64), k.shape[0], 1),
            {"PAGE_SIZE": k_cache.shape[1], "CACHE": q8_cache.TYPES[k_cache.dtype]},
            {
                "width": width,
                "pages_per_sequence": page_table.shape[1],
                **k.elements("k"),
                **v.elements("v"),
                "head_dim": head_dim,
            },
            label="kv_write",
        )
    ]


def _case(label: str, tokens: int, kv_heads: int, head_dim: int, dtype: str) -> Case:
    def make(rng: np.random.Generator) -> list:
        shape = (7, 16, kv_heads, head_dim)
        positions = np.arange(tokens, dtype=np.int32) + 13
        if tokens > 2:
            positions[1] = -1
        values = _near_codes if dtype == q8_cache.NAME else _normal
        return [
            values(rng, (tokens, kv_heads, head_dim)),
            values(rng, (tokens, kv_heads, head_dim)),
            positions,
            (np.arange(tokens) % 2).astype(np.int32),
            np.array([[4, 1, 0], [6, 2, 3]], np.int32),
            q8_cache.random(rng, shape, dtype),
            q8_cache.random(rng, shape, dtype),
        ]

    rtol = 0.0 if dtype == "float32" else 1e-3  # one unit: drivers may round to half either way
    return Case(label, make, {}, 0.0, rtol)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def _near_codes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Values whose codes do not depend on how a device rounds divisions: each is near a multiple of its block's
    scale, and each block contains 127 times its scale.
    """
    blocks = (*shape[:-1], shape[-1] // q8_cache.BLOCK, q8_cache.BLOCK)
    codes = rng.integers(-126, 127, blocks) + rng.uniform(-0.45, 0.45, blocks)
    codes[..., rng.integers(q8_cache.BLOCK)] = 127
    return (codes * rng.uniform(0.001, 0.03, (*blocks[:-1], 1))).astype(np.float32).reshape(shape)


SIGNATURE = Signature(
    "k (T, kv_heads, head_dim) f32",
    "v (T, kv_heads, head_dim) f32",
    "positions (T) i32",
    "sequences (T) i32",
    "page_table (S, P) i32",
    f"k_cache (pages, page_size, kv_heads, head_dim) {q8_cache.KINDS}",
    f"v_cache (pages, page_size, kv_heads, head_dim) {q8_cache.KINDS}",
    multiples={"head_dim": 2},
    rules=q8_cache.RULES,
)

OP = Op(
    "kv_write",
    reference,
    dispatch,
    (
        _case("one token, f16", 1, 3, 64, "float16"),
        _case("several, f16", 9, 1, 256, "float16"),
        _case("several, f32", 20, 2, 20, "float32"),
        _case("one token, q8_0", 1, 3, 64, "q8_0"),
        _case("several, q8_0", 20, 2, 96, "q8_0"),
        _case("one block, q8_0", 5, 3, 32, "q8_0"),
    ),
    SIGNATURE,
    in_place={0: 5, 1: 6},
)

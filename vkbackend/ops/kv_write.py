"""Store a step's keys and values at their pages of the cache, in place.

k, v: (T, kv_heads, head_dim) f32, positions, sequences: (T,) i32 (position negative: slot unused), page_table: (S,
P) i32, k_cache, v_cache: (pages, page_size, kv_heads, head_dim) f16, f32 or q8_0 -> the caches. head_dim is even: an
invocation writes two elements, or, of q8_0, two blocks.
"""

import numpy as np

from ..device.dispatch import Dispatch
from . import q8_cache
from .op import Case, Op, ceil_div
from .signature import Signature


def reference(k, v, positions, sequences, page_table, k_cache, v_cache):
    used = positions >= 0
    position = positions[used]
    page_size = k_cache.shape[1]
    page, slot = page_table[sequences[used], position // page_size], position % page_size
    k_cache[page, slot] = k[used]
    v_cache[page, slot] = v[used]
    return k_cache, v_cache


def dispatch(device, inputs, outputs):
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


def _case(label, tokens, kv_heads, head_dim, dtype):
    def make(rng):
        shape = (7, 16, kv_heads, head_dim)
        positions = np.arange(tokens, dtype=np.int32) + 13
        if tokens > 2:
            positions[1] = -1
        values = _beside_codes if dtype == q8_cache.NAME else _normal
        return [
            values(rng, (tokens, kv_heads, head_dim)),
            values(rng, (tokens, kv_heads, head_dim)),
            positions,
            (np.arange(tokens) % 2).astype(np.int32),
            np.array([[4, 1, 0], [6, 2, 3]], np.int32),
            q8_cache.random(rng, shape, dtype),
            q8_cache.random(rng, shape, dtype),
        ]

    return Case(
        label, make, {}, 0.0, 0.0 if dtype == "float32" else 1e-3
    )  # drivers may round to half either way: one unit


def _normal(rng, shape):
    return rng.standard_normal(shape, np.float32)


def _beside_codes(rng, shape):
    """Values whose codes do not depend on how a device divides: near multiples of their block's 127th part, the
    largest of which is there.
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

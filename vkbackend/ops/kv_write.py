"""Store a step's keys and values at their pages of the cache, in place.

k, v: (T, kv_heads, head_dim) f32, positions, sequences: (T,) i32 (position negative: slot unused), page_table: (S, P) i32,
k_cache, v_cache: (pages, page_size, kv_heads, head_dim) f16 or f32 -> the caches. kv_heads * head_dim is even: an invocation
writes two elements.
"""

import numpy as np

from ..device.dispatch import Dispatch
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
    width = k.row_elements
    return [Dispatch("kv_write", (k.buffer, v.buffer, positions.buffer, sequences.buffer, page_table.buffer), (k_cache.buffer, v_cache.buffer),
                     (ceil_div(width, 128), k.shape[0], 1), ((0, k_cache.shape[1]), (1, k_cache.dtype == "float16")),
                     (width, page_table.shape[1], k.offset, k.stride, v.offset, v.stride, k.shape[2]), label="kv_write")]


def _case(label, tokens, kv_heads, head_dim, dtype):
    def make(rng):
        shape = (7, 16, kv_heads, head_dim)
        positions = np.arange(tokens, dtype=np.int32) + 13
        if tokens > 2:
            positions[1] = -1
        return [rng.standard_normal((tokens, kv_heads, head_dim), np.float32), rng.standard_normal((tokens, kv_heads, head_dim), np.float32),
                positions, (np.arange(tokens) % 2).astype(np.int32), np.array([[4, 1, 0], [6, 2, 3]], np.int32),
                rng.standard_normal(shape, np.float32).astype(dtype), rng.standard_normal(shape, np.float32).astype(dtype)]
    return Case(label, make, {}, 0.0, 1e-3 if dtype == "float16" else 0.0)  # drivers may round to half either way: one unit


SIGNATURE = Signature(
    "k (T, kv_heads, head_dim) f32", "v (T, kv_heads, head_dim) f32", "positions (T) i32", "sequences (T) i32", "page_table (S, P) i32",
    "k_cache (pages, page_size, kv_heads, head_dim) f16|f32", "v_cache (pages, page_size, kv_heads, head_dim) f16|f32",
    multiples={"head_dim": 2},
    rules=(("k_cache and v_cache must have one dtype", lambda s: s["k_cache"].dtype == s["v_cache"].dtype),))

OP = Op("kv_write", reference, dispatch, (
    _case("one token, f16", 1, 3, 64, "float16"), _case("several, f16", 9, 1, 256, "float16"), _case("several, f32", 20, 2, 20, "float32"),
), SIGNATURE, in_place={0: 5, 1: 6})

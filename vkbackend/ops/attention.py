"""Causal attention over the paged cache, grouped-query, with a sliding window and logit soft-capping where asked for.

q: (T, heads, head_dim) f32, k_cache, v_cache: (pages, page_size, kv_heads, head_dim) f16 or f32, positions, sequences: (T,) i32
(position negative: slot unused, its row is not written), page_table: (S, P) i32 -> (T, heads, head_dim) f32
A token at position p sees positions max(0, p + 1 - window) ... p of its sequence. head_dim is a multiple of 8.
Running softmax: Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867.
"""

import numpy as np

from ..device.dispatch import Dispatch
from .op import Case, Op, group_variant
from .signature import Signature


def reference(q, k_cache, v_cache, positions, sequences, page_table, *, scale, window=0, softcap=0.0):
    tokens, heads, head_dim = q.shape
    page_size, kv_heads = k_cache.shape[1:3]
    y = np.zeros_like(q)
    for sequence in np.unique(sequences[positions >= 0]):
        rows = np.flatnonzero((sequences == sequence) & (positions >= 0))
        length = int(positions[rows].max()) + 1
        at = np.arange(length)
        page, slot = page_table[sequence, at // page_size], at % page_size
        keys = k_cache[page, slot].astype(np.float32).transpose(1, 2, 0)    # (kv_heads, head_dim, length)
        values = v_cache[page, slot].astype(np.float32).transpose(1, 0, 2)  # (kv_heads, length, head_dim)
        grouped = q[rows].reshape(len(rows), kv_heads, heads // kv_heads, head_dim).transpose(1, 2, 0, 3)
        scores = (grouped @ keys[:, None]) * np.float32(scale)              # (kv_heads, group, rows, length)
        if softcap:
            scores = np.float32(softcap) * np.tanh(scores / np.float32(softcap))
        position = positions[rows][:, None]
        hidden = (at > position) | ((at <= position - window) if window else False)
        scores = np.where(hidden, np.float32(-np.inf), scores)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ values[:, None]
        y[rows] = mixed.transpose(2, 0, 1, 3).reshape(len(rows), heads, head_dim)
    return y


def dispatch(device, inputs, outputs, *, scale, window=0, softcap=0.0):
    q, k_cache, v_cache, positions, sequences, page_table = inputs
    tokens, heads, head_dim = q.shape
    name, lanes, size = group_variant(device, "attention")
    return [Dispatch(name, (q.buffer, k_cache.buffer, v_cache.buffer, positions.buffer, sequences.buffer, page_table.buffer), (outputs[0].buffer,),
                     (heads, tokens, 1), ((0, lanes), (1, head_dim), (2, k_cache.shape[1]), (3, k_cache.dtype == "float16")),
                     (heads, k_cache.shape[2], page_table.shape[1], *q.fours, window, float(scale), float(softcap)), size, label="attention")]


def _case(label, positions, heads, kv_heads, head_dim, dtype, sequences=None, **attrs):
    def make(rng):
        shape = (12, 16, kv_heads, head_dim)
        tokens = len(positions)
        return [rng.standard_normal((tokens, heads, head_dim), np.float32), rng.standard_normal(shape, np.float32).astype(dtype),
                rng.standard_normal(shape, np.float32).astype(dtype), np.array(positions, np.int32),
                np.array(sequences or [0] * tokens, np.int32), np.array([[4, 11, 0, 9, 8], [6, 2, 3, 1, 10]], np.int32)]
    return Case(label, make, {"scale": head_dim ** -0.5, **attrs}, 2e-5, 2e-5)


SIGNATURE = Signature(
    "q (T, heads, head_dim) f32", "k_cache (pages, page_size, kv_heads, head_dim) f16|f32", "v_cache (pages, page_size, kv_heads, head_dim) f16|f32",
    "positions (T) i32", "sequences (T) i32", "page_table (S, P) i32", multiples={"head_dim": 8},
    rules=(("k_cache and v_cache must have one dtype", lambda s: s["k_cache"].dtype == s["v_cache"].dtype),
           ("heads must be a multiple of kv_heads", lambda s: s["heads"] % s["kv_heads"] == 0)))

OP = Op("attention", reference, dispatch, (
    _case("first token", [0], 9, 3, 64, "float16"), _case("decode", [70], 9, 3, 64, "float16"), _case("decode, f32", [33], 4, 1, 256, "float32"),
    _case("prefill", list(range(3, 40)), 4, 2, 32, "float16"), _case("window", [7, 8, 30, 79], 4, 1, 128, "float32", window=9),
    _case("window at a tile's edge", [31, 32, 63, 64], 2, 2, 40, "float16", window=32),
    _case("two sequences", [5, 61, 17, 18], 6, 2, 64, "float32", sequences=[0, 1, 0, 1]), _case("softcap", [20, 50], 4, 4, 64, "float32", softcap=5.0),
), SIGNATURE)

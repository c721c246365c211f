"""Split rows of projections into heads: rotate queries and keys, optionally normalize them per head before the
rotation or after it (norm_last), and store keys and values in the pages of the cache.

qkv: (T, heads + 2 kv_heads, head_dim) f32: queries, keys, values; positions, sequences: (T,) i32 (position negative:
slot unused), page_table: (S, P) i32, turns: (n_rot + 1,) f32 from `rope.turns_per_position`, q_norm, k_norm:
(head_dim,) f32 or both None, k_cache, v_cache: (pages, page_size, kv_heads, head_dim) f16, f32 or q8_0 -> queries
(T, heads, head_dim) f32 (rows of unused slots are not written), the caches in place. head_dim and n_rot are
multiples of 4. Computes the same as rms_norm, rope and kv_write in sequence.
rope_positions: (T, 4) i32 or None, what a token turns by on each of four axes, in place of its position; axes:
(n_rot / 2,) i32 or None, the axis of each pair (None: the first).
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from . import kv_write, q8_cache, rms_norm, rope
from .op import Case, Op, TensorView, head_variant
from .q8_cache import Cache
from .signature import Signature

# qkv, positions, sequences, page_table, turns, q_norm, k_norm, k_cache, v_cache
Inputs = tuple[
    TensorView,
    TensorView,
    TensorView,
    TensorView,
    TensorView,
    TensorView | None,
    TensorView | None,
    TensorView,
    TensorView,
]
RopeInputs = tuple[*Inputs, TensorView | None, TensorView | None]  # then rope_positions, axes


def reference(
    qkv: np.ndarray,
    positions: np.ndarray,
    sequences: np.ndarray,
    page_table: np.ndarray,
    turns: np.ndarray,
    q_norm: np.ndarray | None,
    k_norm: np.ndarray | None,
    k_cache: Cache,
    v_cache: Cache,
    rope_positions: np.ndarray | None = None,
    axes: np.ndarray | None = None,
    *,
    n_rot: int,
    pairing: str,
    eps: float = 0.0,
    norm_last: bool = False,
) -> tuple[np.ndarray, Cache, Cache]:
    """The numpy twin."""
    kv_heads = k_cache.shape[2]
    heads = qkv.shape[1] - 2 * kv_heads
    qk, v = qkv[:, :-kv_heads], qkv[:, -kv_heads:]

    def normed(qk: np.ndarray) -> np.ndarray:
        if q_norm is None or k_norm is None:
            return qk
        queries, keys = qk[:, :heads], qk[:, heads:]
        norms = rms_norm.reference(queries, q_norm, eps=eps), rms_norm.reference(keys, k_norm, eps=eps)
        return np.concatenate(norms, axis=1)

    by_pair = positions[:, None]
    if rope_positions is not None:
        by_pair = rope_positions[:, :1] if axes is None else rope_positions[:, axes]
    qk = rope.rotated(qk if norm_last else normed(qk), by_pair, turns, n_rot=n_rot, pairing=pairing)
    qk = normed(qk) if norm_last else qk
    kv_write.reference(qk[:, heads:], v, positions, sequences, page_table, k_cache, v_cache)
    return qk[:, :heads], k_cache, v_cache


def dispatch(
    device: Device,
    inputs: RopeInputs,
    outputs: Sequence[TensorView],
    *,
    n_rot: int,
    pairing: str,
    eps: float = 0.0,
    norm_last: bool = False,
) -> list[Dispatch]:
    """One group per head."""
    qkv, positions, sequences, page_table, turns, q_norm, k_norm = inputs[:7]
    rope_positions, axes = inputs[9:]
    q, k_cache, v_cache = outputs
    tokens, all_heads, head_dim = qkv.shape
    kv_heads = k_cache.shape[2]
    name, lanes, size = head_variant(device, "split_heads")
    return [
        Dispatch(
            name,
            (
                qkv.buffer,
                positions.buffer,
                sequences.buffer,
                page_table.buffer,
                turns.buffer,
                (q_norm or qkv).buffer,
                (k_norm or qkv).buffer,
                (rope_positions or positions).buffer,
                (axes or positions).buffer,
            ),
            (q.buffer, k_cache.buffer, v_cache.buffer),
            (all_heads, tokens, 1),
            {
                "LANES": lanes,
                "HEAD_DIM": head_dim,
                "N_ROT": n_rot,
                "HALVES": pairing == "halves",
                "HAS_NORMS": q_norm is not None,
                "PAGE_SIZE": k_cache.shape[1],
                "CACHE": q8_cache.TYPES[k_cache.dtype],
                "HAS_ROPE_POSITIONS": rope_positions is not None,
                "HAS_AXES": axes is not None,
                "NORM_LAST": norm_last,
            },
            {
                "heads": all_heads - 2 * kv_heads,
                "kv_heads": kv_heads,
                "pages_per_sequence": page_table.shape[1],
                **qkv.elements("x"),
                "eps": eps,
            },
            size,
            label="split_heads",
        )
    ]


def _case(
    label: str,
    tokens: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    pairing: str,
    dtype: str,
    norms: bool = False,
    n_rot: int = 0,
    furthest: int = 30,
    num_axes: int = 0,
    **attrs: bool,
) -> Case:
    """num_axes: of rope positions that differ from the positions; 0: none are given."""
    n_rot = n_rot or head_dim

    def make(rng: np.random.Generator) -> list:
        shape = (9, 16, kv_heads, head_dim)
        positions = np.arange(tokens, dtype=np.int32) + furthest - tokens + 1
        sequences = (np.arange(tokens) % 2).astype(np.int32)
        return [
            rng.standard_normal((tokens, heads + 2 * kv_heads, head_dim), np.float32),
            positions,
            sequences,
            np.array([[4, 1, 0], [6, 2, 3]], np.int32),
            rope.turns_per_position(10000.0, n_rot, magnitude=1.19 if n_rot < head_dim else 1.0),
            *([rng.uniform(0.5, 1.5, head_dim).astype(np.float32) for _ in range(2)] if norms else [None, None]),
            q8_cache.random(rng, shape, dtype),
            q8_cache.random(rng, shape, dtype),
            *([rng.integers(0, 5000, (tokens, 4)).astype(np.int32)] if num_axes else []),
            *([rng.integers(0, num_axes, n_rot // 2).astype(np.int32)] if num_axes > 1 else []),
        ]

    # A value halfway between two half floats may round either way on its last f32 bit: one unit of f16. In q8_0 the
    # unit is the block's largest magnitude / 127.
    atol, rtol = {"float32": (1e-5, 1e-5), "float16": (1e-5, 1e-3), q8_cache.NAME: (0.04, 1e-3)}[dtype]
    return Case(label, make, {"n_rot": n_rot, "pairing": pairing, "eps": 1e-6, **attrs}, atol, rtol)


SIGNATURE = Signature(
    "qkv (T, all_heads, head_dim) f32",
    "positions (T) i32",
    "sequences (T) i32",
    "page_table (S, P) i32",
    "turns (n_rot + 1) f32",
    "q_norm? (head_dim) f32",
    "k_norm? (head_dim) f32",
    f"k_cache (pages, page_size, kv_heads, head_dim) {q8_cache.KINDS}",
    f"v_cache (pages, page_size, kv_heads, head_dim) {q8_cache.KINDS}",
    "rope_positions? (T, num_axes) i32",
    "axes? (num_pairs) i32",
    multiples={"head_dim": 4, "n_rot": 4},
    rules=(
        ("n_rot must not exceed head_dim", lambda s: s["n_rot"] <= s["head_dim"]),
        (f"pairing must be one of {', '.join(rope.PAIRINGS)}", lambda s: s["pairing"] in rope.PAIRINGS),
        ("qkv must have heads + 2 kv_heads", lambda s: s["all_heads"] > 2 * s["kv_heads"]),
        ("q_norm and k_norm must be given together", lambda s: (s["q_norm"] is None) == (s["k_norm"] is None)),
        ("rope_positions must have 4 axes", lambda s: s.get("num_axes", 4) == 4),
        ("axes must have n_rot / 2", lambda s: s.get("num_pairs", s["n_rot"] // 2) == s["n_rot"] // 2),
        ("axes must come with rope_positions", lambda s: s.get("axes") is None or s["rope_positions"] is not None),
        *q8_cache.RULES,
    ),
)

OP = Op(
    "split_heads",
    reference,
    dispatch,
    (
        _case("adjacent, f16", 1, 9, 3, 64, "adjacent", "float16"),
        _case("halves and norms, f16", 3, 4, 1, 256, "halves", "float16", norms=True),
        _case("partial, f32", 5, 4, 2, 80, "halves", "float32", n_rot=40),
        _case("partial adjacent", 2, 2, 2, 24, "adjacent", "float32", n_rot=16),
        _case("adjacent, q8_0", 1, 9, 3, 64, "adjacent", "q8_0"),
        _case("halves and norms, q8_0", 3, 4, 1, 256, "halves", "q8_0", norms=True),
        _case("an odd number of blocks, q8_0", 4, 4, 2, 96, "halves", "q8_0", n_rot=40),
        _case("one block, q8_0", 4, 4, 2, 32, "halves", "q8_0"),
        _case("odd, norms, f32", 4, 6, 2, 20, "adjacent", "float32", norms=True),
        _case("norms last, partial", 4, 6, 2, 24, "halves", "float32", norms=True, n_rot=16, norm_last=True),
        _case("norms last, q8_0", 3, 4, 1, 64, "adjacent", "q8_0", norms=True, norm_last=True),
        _case("one word short of a group", 2, 1, 1, 4, "halves", "float16"),
        _case("rope positions", 5, 4, 2, 64, "adjacent", "float32", num_axes=1),
        _case("axes", 5, 4, 2, 64, "adjacent", "float32", num_axes=3),
        _case("axes, halves and norms", 3, 4, 1, 128, "halves", "float16", norms=True, num_axes=4),
        _case("axes, partial, q8_0", 4, 4, 2, 96, "halves", "q8_0", n_rot=40, num_axes=3),
    ),
    SIGNATURE,
    in_place={1: 7, 2: 8},
)

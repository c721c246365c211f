"""split_heads and attention fused, for steps in which each token belongs to a different sequence, so that no token
needs the key of another.

qkv: (T, heads + 2 kv_heads, head_dim) f32: queries, keys, values; positions, sequences: (T,) i32 (position negative:
slot unused), page_table: (S, P) i32, turns: (n_rot + 1,) f32 from `rope.turns_per_position`, q_norm, k_norm:
(head_dim,) f32 or both None, k_cache, v_cache: (pages, page_size, kv_heads, head_dim) f16, f32 or q8_0, sinks:
(heads,) f32 or None, as in attention -> (T, heads, head_dim) f32 (rows of unused slots are not written), the caches in
place. norm_last: as in split_heads. head_dim is a multiple of 8, n_rot of 4. On the device the result has the same bits
as the two ops in sequence.
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from . import attention, q8_cache, rope, split_heads
from .op import Case, Op, Scratch, Shaped, TensorView, head_variant, token_ranges
from .q8_cache import Cache
from .signature import Signature

Inputs = tuple[*split_heads.Inputs, TensorView | None]  # then sinks


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
    sinks: np.ndarray | None = None,
    *,
    n_rot: int,
    pairing: str,
    eps: float = 0.0,
    norm_last: bool = False,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> tuple[np.ndarray, Cache, Cache]:
    """The numpy twin."""
    q, k_cache, v_cache = split_heads.reference(
        qkv,
        positions,
        sequences,
        page_table,
        turns,
        q_norm,
        k_norm,
        k_cache,
        v_cache,
        n_rot=n_rot,
        pairing=pairing,
        eps=eps,
        norm_last=norm_last,
    )
    y = attention.reference(
        q,
        k_cache,
        v_cache,
        positions,
        sequences,
        page_table,
        None,
        sinks,
        scale=scale,
        window=window,
        softcap=softcap,
    )
    return y, k_cache, v_cache


def scratch(inputs: Sequence[Shaped], *, splits: int = 1, window: int = 0, **_: object) -> Scratch:
    """Shapes and dtypes of the buffers that `dispatch` takes after the outputs."""
    qkv, page_table, k_cache = inputs[0], inputs[3], inputs[7]
    heads = qkv.shape[1] - 2 * k_cache.shape[2]
    return attention.scratch_shapes(
        (qkv.shape[0], heads, qkv.shape[2]), page_table.shape[1] * k_cache.shape[1], window, splits
    )


def host_scratch(inputs: Sequence[Shaped], *, window: int = 0, **_: object) -> int:
    """Bytes that the twin of attention allocates for one token: each token belongs to another sequence."""
    qkv, page_table, k_cache = inputs[0], inputs[3], inputs[7]
    q_shape = 1, qkv.shape[1] - 2 * k_cache.shape[2], qkv.shape[2]
    return attention.host_scratch_bytes(q_shape, k_cache.shape, page_table.shape[1], window)


def dispatch(
    device: Device,
    inputs: Inputs,
    outputs: Sequence[TensorView],
    *,
    n_rot: int,
    pairing: str,
    scale: float,
    eps: float = 0.0,
    norm_last: bool = False,
    window: int = 0,
    softcap: float = 0.0,
    splits: int = 1,
    longest: int = attention.LEAST_LONGEST,
    heads_together: int = 0,
) -> list[Dispatch]:
    """splits, longest, heads_together: as in attention."""
    qkv, positions, sequences, page_table, turns, q_norm, k_norm, k_cache, v_cache, sinks = inputs
    reads = (qkv, positions, sequences, page_table, turns, q_norm or qkv, k_norm or qkv, k_cache, v_cache, sinks or qkv)
    tokens, all_heads, head_dim = qkv.shape
    kv_heads = k_cache.shape[2]
    heads = all_heads - 2 * kv_heads
    heads_together = heads_together or attention.together(device, heads, kv_heads, head_dim)
    name, lanes, size = head_variant(device, "decode_attention")
    capacity = page_table.shape[1] * k_cache.shape[1]
    shared = attention.shared_buffers(device, outputs, (heads // heads_together, tokens, splits))
    return [
        Dispatch(
            name,
            tuple(view.buffer for view in reads),
            (outputs[0].buffer, k_cache.buffer, v_cache.buffer, *shared),
            (heads // heads_together, count, splits),
            {
                **attention.constants(lanes, k_cache, head_dim, heads_together, splits, softcap),
                "N_ROT": n_rot,
                "HALVES": pairing == "halves",
                "HAS_NORMS": q_norm is not None,
                "NORM_LAST": norm_last,
                "HAS_SINKS": sinks is not None,
            },
            {
                "heads": heads,
                "kv_heads": kv_heads,
                "pages_per_sequence": page_table.shape[1],
                **qkv.elements("x"),
                "window": window,
                "scale": scale,
                "softcap": softcap,
                "max_chunks": attention.max_chunks(capacity, window),
                "first_token": first,
                "eps": eps,
            },
            size,
            flops,
            label="decode_attention",
        )
        for first, count, flops in token_ranges(
            tokens, attention.token_flops(heads, head_dim, attention.num_seen(longest, capacity, window))
        )
    ]


def _case(
    label: str,
    positions: list[int],
    heads: int,
    kv_heads: int,
    head_dim: int,
    pairing: str,
    dtype: str,
    norms: bool = False,
    n_rot: int = 0,
    sinks: bool = False,
    **attrs: float,
) -> Case:
    n_rot = n_rot or head_dim

    def make(rng: np.random.Generator) -> list:
        tokens, pages = len(positions), max(positions) // 16 + 1
        shape = (tokens * pages + 1, 16, kv_heads, head_dim)
        return [
            rng.standard_normal((tokens, heads + 2 * kv_heads, head_dim), np.float32),
            np.array(positions, np.int32),
            np.arange(tokens, dtype=np.int32),
            rng.permutation(tokens * pages + 1)[: tokens * pages].reshape(tokens, pages).astype(np.int32),
            rope.turns_per_position(10000.0, n_rot, magnitude=1.19 if n_rot < head_dim else 1.0),
            *([rng.uniform(0.5, 1.5, head_dim).astype(np.float32) for _ in range(2)] if norms else [None, None]),
            q8_cache.random(rng, shape, dtype),
            q8_cache.random(rng, shape, dtype),
            rng.uniform(-2, 8, heads).astype(np.float32) if sinks else None,
        ]

    # An f16 cache may round the token's own key and value either way (llvmpipe truncates): one unit of values below 4.
    # In q8_0 the unit is the block's largest magnitude / 127.
    return Case(
        label,
        make,
        {"n_rot": n_rot, "pairing": pairing, "eps": 1e-6, "scale": head_dim**-0.5, **attrs},
        {"float32": 3e-5, "float16": 2e-3, q8_cache.NAME: 0.04}[dtype],
        3e-5 if dtype == "float32" else 1e-3,
    )


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
    "sinks? (num_sinks) f32",
    multiples={"head_dim": 8, "n_rot": 4},
    rules=(
        *split_heads.SIGNATURE.rules,
        (
            "each head needs a sink",
            lambda s: s["sinks"] is None or s["num_sinks"] == s["all_heads"] - 2 * s["kv_heads"],
        ),
        ("heads must be a multiple of kv_heads", lambda s: (s["all_heads"] - 2 * s["kv_heads"]) % s["kv_heads"] == 0),
    ),
)

OP = Op(
    "decode_attention",
    reference,
    dispatch,
    (
        _case("first token", [0], 9, 3, 64, "adjacent", "float16"),
        _case("decode", [70], 9, 3, 64, "adjacent", "float16"),
        _case("f32", [33], 4, 2, 32, "adjacent", "float32"),
        _case("halves and norms", [300, 5], 4, 1, 256, "halves", "float16", norms=True, window=280),
        _case("partial halves, f32", [40, 255, 256], 4, 2, 80, "halves", "float32", n_rot=40),
        _case("partial adjacent", [17], 2, 2, 24, "adjacent", "float32", n_rot=16),
        _case("softcap, f32", [64, 65], 6, 2, 128, "halves", "float32", norms=True, softcap=5.0),
        _case("norms last", [40, 3], 4, 2, 24, "halves", "float16", norms=True, n_rot=16, norm_last=True),
        _case("many chunks", [900], 8, 1, 64, "halves", "float16"),
        _case("sinks", [900, 7], 8, 2, 64, "halves", "float16", sinks=True, window=300),
        _case("decode, q8_0", [70], 3, 3, 64, "adjacent", "q8_0"),
        _case("halves and norms, q8_0", [300, 5], 4, 2, 64, "halves", "q8_0", norms=True, window=280),
        _case("an odd number of blocks, q8_0", [40, 255, 256], 4, 2, 96, "halves", "q8_0", n_rot=40),
    ),
    SIGNATURE,
    in_place={1: 7, 2: 8},
    variants=attention.variants,
    scratch=scratch,
    host_scratch=host_scratch,
)

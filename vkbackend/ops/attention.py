"""Causal grouped-query attention over the paged cache, with optional sliding window and logit soft-capping.

q: (T, heads, head_dim) f32, k_cache, v_cache: (pages, page_size, kv_heads, head_dim) f16, f32 or q8_0, positions,
sequences: (T,) i32 (position negative: slot unused, its row is not written), page_table: (S, P) i32 -> (T, heads,
head_dim) f32. A token at position p sees positions max(0, p + 1 - window) ... p of its sequence; window 0: all of them.
limits: (T,) i32 or None, the last position that each token sees, in place of its own; at least that.
sinks: (heads,) f32 or None, a score that takes part in each head's softmax, with a value of zero (Xiao et al. 2023,
https://arxiv.org/abs/2309.17453, section 3.3).
head_dim is a multiple of 8. On the device a long context may be split over several groups, which changes no bit of the
result. Running softmax: Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from ..device.buffers import Buffer
from ..device.context import Device
from ..device.dispatch import Dispatch
from . import q8_cache
from .op import Case, Op, Scratch, Shaped, TensorView, ceil_div, head_variant, token_ranges
from .q8_cache import Cache
from .signature import Signature

# q, k_cache, v_cache, positions, sequences, page_table, limits, sinks
Inputs = tuple[
    TensorView, TensorView, TensorView, TensorView, TensorView, TensorView, TensorView | None, TensorView | None
]
LEAST_LONGEST = 1024  # positions that a token sees at most, where a dispatch is not told
CHUNK = 256  # positions whose softmax is computed separately, then merged with the chunks before
ENOUGH_GROUPS = 512  # of a decode step, to keep a GPU busy


def reference(
    q: np.ndarray,
    k_cache: Cache,
    v_cache: Cache,
    positions: np.ndarray,
    sequences: np.ndarray,
    page_table: np.ndarray,
    limits: np.ndarray | None = None,
    sinks: np.ndarray | None = None,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> np.ndarray:
    """The numpy twin."""
    heads, head_dim = q.shape[1:]
    kv_heads = k_cache.shape[2]
    y = np.zeros_like(q)
    used = positions >= 0
    for sequence in set(sequences[used].tolist()):
        rows = np.flatnonzero(used & (sequences == sequence))
        position = positions[rows][:, None]
        limit = position if limits is None else limits[rows][:, None]
        last = int(limit.max()) + 1
        first = max(0, int(position.min()) + 1 - window) if window else 0
        keys, values = _context(k_cache, v_cache, page_table[sequence], first, last)  # (length, kv_heads, head_dim)
        queries = (q[rows] * np.float32(scale)).reshape(len(rows), kv_heads, -1, head_dim).transpose(1, 2, 0, 3)
        scores = queries.reshape(kv_heads, -1, head_dim) @ keys.transpose(1, 2, 0)  # (kv_heads, group * rows, length)
        if softcap:
            scores = np.float32(softcap) * np.tanh(scores / np.float32(softcap))
        if len(rows) > 1:  # a single row sees everything that was read
            at = np.arange(first, last)
            hidden = (at > limit) | ((at <= position - window) if window else False)
            by_row = scores.reshape(kv_heads, -1, *hidden.shape)
            by_row += np.where(hidden, np.float32(-np.inf), np.float32(0))
        largest = scores.max(axis=-1, keepdims=True)
        sink = None if sinks is None else np.repeat(sinks.reshape(kv_heads, -1), len(rows), axis=1)[..., None]
        if sink is not None:
            largest = np.maximum(largest, sink)
        scores -= largest
        np.exp(scores, out=scores)
        mixed = scores @ values.transpose(1, 0, 2)
        mixed /= scores.sum(axis=-1, keepdims=True) + (0 if sink is None else np.exp(sink - largest))
        y[rows] = (
            mixed.reshape(kv_heads, -1, len(rows), head_dim).transpose(2, 0, 1, 3).reshape(len(rows), heads, head_dim)
        )
    return y


def _context(k_cache: Cache, v_cache: Cache, page_row: np.ndarray, first: int, last: int) -> Iterator[np.ndarray]:
    """Keys and values of a sequence's positions first ... last - 1, f32 (length, kv_heads, head_dim); views if its
    pages are contiguous.
    """
    size = k_cache.shape[1]
    page = first // size
    pages: list[int] = page_row[page : ceil_div(last, size)].tolist()
    contiguous = pages == list(range(pages[0], pages[0] + len(pages)))
    where = slice(pages[0], pages[0] + len(pages)) if contiguous else pages
    some = slice(first - page * size, last - page * size)
    return (
        np.asarray(cache[where]).reshape(-1, *cache.shape[2:])[some].astype(np.float32, copy=False)
        for cache in (k_cache, v_cache)
    )


def together(device: Device, heads: int, kv_heads: int, head_dim: int) -> int:
    """Number of query heads of a key-value head per group: as many as its lanes have registers for, at most 4."""
    lanes = head_variant(device, "attention")[1]
    eights_per_lane = ceil_div(head_dim // 8, lanes)
    return max(
        count
        for count in (1, 2, 3, 4)
        if heads // kv_heads % count == 0 and (count == 1 or count * eights_per_lane <= device.lane_rule.head_eights)
    )


def max_chunks(context: int, window: int) -> int:
    """Largest number of chunks that the positions visible to a token can span."""
    chunks = ceil_div(context, CHUNK)
    return min(chunks, window // CHUNK + 2) if window else chunks


def splits(device: Device, num_tokens: int, kv_heads: int, longest: int) -> int:
    """Number of groups to split each head of a decode step into; `longest`: its longest context. On a CPU device a
    few groups keep all threads busy, and more only add work.
    """
    if device.info.is_cpu:
        enough_groups = 2 * (os.cpu_count() or 1)
        least_context = 4 * CHUNK
    else:
        enough_groups = ENOUGH_GROUPS
        least_context = 2 * CHUNK
    return ceil_div(enough_groups, num_tokens * kv_heads) if longest >= least_context else 1


def scratch(inputs: Sequence[Shaped], *, splits: int = 1, window: int = 0, **_: object) -> Scratch:
    """Shapes and dtypes of the buffers that `dispatch` takes after the output."""
    q, k_cache, page_table = inputs[0], inputs[1], inputs[5]
    has_limits = len(inputs) > 6 and inputs[6] is not None
    return scratch_shapes(q.shape, page_table.shape[1] * k_cache.shape[1], 0 if has_limits else window, splits)


def scratch_shapes(shape: tuple[int, ...], context: int, window: int, splits: int) -> Scratch:
    """Results of the chunks of a split attention, which the last group merges: (T, heads, chunks, head_dim + 4).
    shape: of q.
    """
    tokens, heads, head_dim = shape
    return [((tokens, heads * max_chunks(context, window) * (head_dim + 4)), "float32")] if splits > 1 else []


def counted_longest(longest: int) -> int:
    """The largest number of positions that a token of a step sees, rounded up so that few step shapes differ in it."""
    counted = LEAST_LONGEST
    while counted < longest:
        counted *= 4
    return counted


def num_seen(longest: int, capacity: int, window: int) -> int:
    """The largest number of positions that a token is counted with. capacity: that a sequence can have."""
    return min(longest, capacity, window or capacity)


def token_flops(heads: int, head_dim: int, positions: int) -> int:
    """Operations of a token that sees `positions` positions."""
    return 4 * heads * head_dim * positions


def host_scratch(inputs: Sequence[Shaped], *, window: int = 0, **_: object) -> int:
    """Bytes of the twin's scores and mask, and of the keys and values that it reads as f32."""
    return host_scratch_bytes(inputs[0].shape, inputs[1].shape, inputs[5].shape[1], window)


def host_scratch_bytes(q_shape: tuple[int, ...], cache_shape: tuple[int, ...], num_pages: int, window: int) -> int:
    """`host_scratch` for a sequence of `num_pages` pages with all rows of a q (T, heads, head_dim)."""
    tokens, heads, head_dim = q_shape
    page_size, kv_heads = cache_shape[1:3]
    length = num_pages * page_size
    if window:
        length = min(length, window + tokens)
    scores = heads * tokens * length
    mask = tokens * length if tokens > 1 else 0
    return 4 * (scores + mask + 2 * length * kv_heads * head_dim)


def dispatch(
    device: Device,
    inputs: Inputs,
    outputs: Sequence[TensorView],
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    splits: int = 1,
    longest: int = LEAST_LONGEST,
    heads_together: int = 0,
) -> list[Dispatch]:
    """splits: groups that share the chunks of each head. longest: the largest number of positions that a token sees,
    by which the work is counted and cut. heads_together: query heads per group; 0 asks `together`.
    """
    q, k_cache, v_cache, positions, sequences, page_table, limits, sinks = inputs
    reads = (q, k_cache, v_cache, positions, sequences, page_table, limits or positions, sinks or q)
    tokens, heads, head_dim = q.shape
    heads_together = heads_together or together(device, heads, k_cache.shape[2], head_dim)
    name, lanes, size = head_variant(device, "attention")
    capacity = page_table.shape[1] * k_cache.shape[1]
    seen_window = 0 if limits else window  # up to its limit a token may see any number of positions
    chunks = max_chunks(capacity, seen_window)
    shared = shared_buffers(device, outputs, (heads // heads_together, tokens, splits))
    return [
        Dispatch(
            name,
            tuple(view.buffer for view in reads),
            (outputs[0].buffer, *shared),
            (heads // heads_together, count, splits),
            {
                **constants(lanes, k_cache, head_dim, heads_together, splits, softcap),
                "HAS_LIMITS": limits is not None,
                "HAS_SINKS": sinks is not None,
            },
            {
                "heads": heads,
                "kv_heads": k_cache.shape[2],
                "pages_per_sequence": page_table.shape[1],
                **q.fours("x"),
                "window": window,
                "scale": scale,
                "softcap": softcap,
                "max_chunks": chunks,
                "first_token": first,
            },
            size,
            flops,
            label="attention",
        )
        for first, count, flops in token_ranges(
            tokens, token_flops(heads, head_dim, num_seen(longest, capacity, seen_window))
        )
    ]


def shared_buffers(
    device: Device, outputs: Sequence[TensorView], groups: tuple[int, int, int]
) -> tuple[Buffer, Buffer]:
    """Buffers for the chunk results of groups that share a head and for the count of finished groups. Without
    splitting the kernel touches neither.
    """
    if groups[2] == 1:
        return outputs[0].buffer, outputs[0].buffer
    return outputs[-1].buffer, device.counters(groups[0] * groups[1])


def constants(
    lanes: int, k_cache: TensorView, head_dim: int, heads_together: int, splits: int, softcap: float
) -> dict[str, int | bool]:
    """The specialization constants of attention_core.glsl."""
    return {
        "LANES": lanes,
        "HEAD_DIM": head_dim,
        "PAGE_SIZE": k_cache.shape[1],
        "CACHE": q8_cache.TYPES[k_cache.dtype],
        "HEADS": heads_together,
        "STEPS": max(1, 16 // lanes),
        "CHUNK": CHUNK,
        "SPLIT": splits > 1,
        "SOFTCAP": softcap > 0,
    }


def variants(device: Device, inputs: Sequence, **_: object) -> list[dict]:
    """One and several query heads per group; one and several groups per head."""
    return [{"heads_together": 1}, {}, {"splits": 2}]


def _case(
    label: str,
    positions: list[int],
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: str,
    sequences: list[int] | None = None,
    limits: list[int] | None = None,
    sinks: bool = False,
    **attrs: float,
) -> Case:
    def make(rng: np.random.Generator) -> list:
        pages = max(limits or positions) // 16 + 1
        shape = (2 * pages + 2, 16, kv_heads, head_dim)
        tokens = len(positions)
        return [
            rng.standard_normal((tokens, heads, head_dim), np.float32),
            q8_cache.random(rng, shape, dtype),
            q8_cache.random(rng, shape, dtype),
            np.array(positions, np.int32),
            np.array(sequences or [0] * tokens, np.int32),
            rng.permutation(2 * pages + 2)[: 2 * pages].reshape(2, pages).astype(np.int32),
            np.array(limits, np.int32) if limits else None,
            rng.uniform(-2, 8, heads).astype(np.float32) if sinks else None,
        ]

    return Case(label, make, {"scale": head_dim**-0.5, **attrs}, 2e-5, 2e-5)


SIGNATURE = Signature(
    "q (T, heads, head_dim) f32",
    f"k_cache (pages, page_size, kv_heads, head_dim) {q8_cache.KINDS}",
    f"v_cache (pages, page_size, kv_heads, head_dim) {q8_cache.KINDS}",
    "positions (T) i32",
    "sequences (T) i32",
    "page_table (S, P) i32",
    "limits? (T) i32",
    "sinks? (heads) f32",
    multiples={"head_dim": 8},
    rules=(*q8_cache.RULES, ("heads must be a multiple of kv_heads", lambda s: s["heads"] % s["kv_heads"] == 0)),
)

OP = Op(
    "attention",
    reference,
    dispatch,
    (
        _case("first token", [0], 9, 3, 64, "float16"),
        _case("decode", [70], 9, 3, 64, "float16"),
        _case("decode, f32", [33], 4, 1, 256, "float32"),
        _case("prefill", list(range(3, 40)), 4, 2, 32, "float16"),
        _case("window", [7, 8, 30, 79], 4, 1, 128, "float32", window=9),
        _case("window at a tile's edge", [31, 32, 63, 64], 2, 2, 40, "float16", window=32),
        _case("two sequences", [5, 61, 17, 18], 6, 2, 64, "float32", sequences=[0, 1, 0, 1]),
        _case("softcap", [20, 50], 4, 4, 64, "float32", softcap=5.0),
        _case("many chunks", [0, 255, 256, 511, 900], 6, 2, 64, "float16"),
        _case("window over chunks", [257, 700], 8, 1, 128, "float32", window=300),
        _case("wide heads", [530], 4, 1, 256, "float16", window=512),
        _case("odd heads", [5, 300], 5, 1, 40, "float16"),
        _case("decode, q8_0", [70], 3, 3, 64, "q8_0"),
        _case("prefill, q8_0", list(range(3, 40)), 4, 2, 32, "q8_0"),
        _case("many chunks, q8_0", [0, 255, 256, 511, 900], 4, 2, 96, "q8_0"),
        _case("window, q8_0", [257, 700], 4, 2, 64, "q8_0", window=300),
        _case("limits", list(range(3, 12)), 4, 2, 64, "float32", limits=[3, 9, 9, 9, 9, 9, 9, 10, 11]),
        _case("limits, window", list(range(3, 12)), 4, 2, 64, "float16", limits=[3, *[9] * 6, 10, 11], window=4),
        _case("limits, two sequences", [5, 6, 60, 61], 6, 2, 64, "q8_0", [0, 0, 1, 1], [6, 6, 61, 61]),
        _case("sinks", [0, 70, 900], 9, 3, 64, "float16", sinks=True),
        _case("sinks, prefill with a window", list(range(3, 40)), 8, 1, 40, "float32", sinks=True, window=9),
        _case("limits over chunks", [200, 255, 600], 6, 2, 64, "float16", limits=[700, 700, 700], window=100),
    ),
    SIGNATURE,
    variants=variants,
    scratch=scratch,
    host_scratch=host_scratch,
)

"""Log-sum-exp of each row of logits, and a set of candidates that contains at least its `k` largest.

logits: (M, V) f32 -> strips (M, S, 2) f32 (scratch: maximum of each strip of 64 and its sum of exponentials), stats
(M, 4) f32 (log-sum-exp, threshold, maximum, 0), counts (M,) i32, ids (M, CAPACITY) i32, values (M, CAPACITY) f32.
Candidates are all logits that reach the k-th largest strip maximum. Their order on the device is undefined. If counts
exceeds CAPACITY, the set is incomplete and the caller must read the row itself.
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, Scratch, Shaped, TensorView, ceil_div, elementwise_variant, group_variant
from .signature import Signature

CAPACITY = 1024
STRIP = 64  # logits per strip: sixteen fours, a workgroup's width apart
WORKGROUP = 64 * STRIP
LOWEST = np.float32(-3.0e38)
UNBOUNDED = np.float32(-3.4e38)


def num_strips(vocabulary: int) -> int:
    """Strips per row: whole workgroups of 64."""
    return ceil_div(vocabulary, WORKGROUP) * 64


def output_shapes(rows: int, vocabulary: int) -> Scratch:
    """Shapes and dtypes of the five outputs."""
    return [
        ((rows, num_strips(vocabulary), 2), "float32"),
        ((rows, 4), "float32"),
        ((rows,), "int32"),
        ((rows, CAPACITY), "int32"),
        ((rows, CAPACITY), "float32"),
    ]


def reference(logits: np.ndarray, *, k: int) -> tuple[np.ndarray, ...]:
    """The numpy twin."""
    rows, vocabulary = logits.shape
    strips_per_row = num_strips(vocabulary)
    missing = strips_per_row * STRIP - vocabulary
    padded = np.pad(logits, ((0, 0), (0, missing)), constant_values=LOWEST) if missing else logits
    tiles = padded.reshape(rows, -1, 16, 64, 4)  # strip i of a workgroup's width: [:, :, :, i]
    highest = tiles.max(axis=2).max(axis=-1)
    sums = np.exp(tiles - highest[:, :, None, :, None]).sum(axis=2).sum(axis=-1)
    highest, sums = highest.reshape(rows, -1), sums.reshape(rows, -1)
    sums[highest <= LOWEST] = 0  # padding only
    strips = np.stack([highest, sums], axis=-1)

    stats, counts = np.zeros((rows, 4), np.float32), np.zeros(rows, np.int32)
    ids, values = np.full((rows, CAPACITY), -1, np.int32), np.zeros((rows, CAPACITY), np.float32)
    for row in range(rows):
        top = highest[row].max()
        threshold = np.partition(highest[row], -k)[-k] if k <= strips_per_row else UNBOUNDED
        stats[row] = (
            top + np.log((sums[row] * np.exp((highest[row] - top).astype(np.float64))).sum()),
            threshold,
            top,
            0,
        )
        found = np.flatnonzero(logits[row] >= threshold)
        counts[row] = len(found)
        if len(found) <= CAPACITY:
            ids[row, : len(found)], values[row, : len(found)] = found, logits[row, found]
    return strips, stats, counts, ids, values


def host_scratch(inputs: Sequence[Shaped], **_: object) -> int:
    """Bytes of the twin's copies of the logits: padded, less the maximum of their strip, and exponentials."""
    rows, vocabulary = inputs[0].shape
    return 3 * 4 * rows * num_strips(vocabulary) * STRIP


def dispatch(device: Device, inputs: Sequence[TensorView], outputs: Sequence[TensorView], *, k: int) -> list[Dispatch]:
    """Three passes: maximum and sum of each strip; log-sum-exp and threshold of each row; candidates."""
    logits = inputs[0]
    strips, stats, counts, ids, values = outputs
    rows, vocabulary = logits.shape
    if logits.offset:
        raise ValueError("top_k reads whole matrices")
    push = {"n": vocabulary, "stride4": logits.fours("x")["x_stride"], "num_strips": num_strips(vocabulary)}
    groups = (num_strips(vocabulary) // 64, rows, 1)
    threshold, lanes, size = group_variant(device, "top_k_threshold", ("base", "subgroup"))
    return [
        Dispatch(
            elementwise_variant(device, "top_k_strips"),
            (logits.buffer,),
            (strips.buffer,),
            groups,
            push=push,
            label="top_k",
        ),
        Dispatch(
            threshold,
            (strips.buffer,),
            (stats.buffer, counts.buffer),
            (rows, 1, 1),
            {"LANES": lanes},
            {"num_strips": num_strips(vocabulary), "k": k},
            size,
            label="top_k",
        ),
        Dispatch(
            elementwise_variant(device, "top_k_collect"),
            (logits.buffer, strips.buffer, stats.buffer),
            (counts.buffer, ids.buffer, values.buffer),
            groups,
            {"CAPACITY": CAPACITY},
            push,
            label="top_k",
        ),
    ]


def canonical(outputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The outputs with candidates sorted by id, and unused places and incomplete sets cleared."""
    strips, stats, counts, ids, values = outputs
    ids, values = ids.copy(), values.copy()
    for row, count in enumerate(counts):
        count = 0 if count > CAPACITY else count
        order = np.argsort(ids[row, :count])
        ids[row, :count], values[row, :count] = ids[row, order], values[row, order]
        ids[row, count:], values[row, count:] = -1, 0
    return strips, stats, counts, ids, values


def _case(label: str, rows: int, vocabulary: int, spread: float, k: int = 128, rounded: bool = False) -> Case:
    def make(rng: np.random.Generator) -> list:
        logits = rng.standard_normal((rows, vocabulary), np.float32) * np.float32(spread)
        return [np.round(logits) if rounded else logits]

    return Case(label, make, {"k": k}, 1e-5, 2e-5)


OP = Op(
    "top_k",
    reference,
    dispatch,
    (
        _case("small vocabulary", 3, 200, 3),
        _case("vocabulary", 2, 49152, 4),
        _case("not a multiple of a strip", 2, 33004, 9),
        _case("not a multiple of four", 2, 9001, 2, k=16),
        _case("ties", 2, 20000, 2, k=40, rounded=True),
        _case("all negative", 1, 12000, 0.5, k=7),
    ),
    Signature("logits (M, V) f32", rules=(("k must be at least 1", lambda s: s["k"] >= 1),)),
    canonical=canonical,
    host_scratch=host_scratch,
)

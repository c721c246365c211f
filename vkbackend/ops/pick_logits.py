"""One logit of each row: y[m] = logits[m, ids[m]], or zero if ids[m] is negative (an unused row).

logits: (M, V) f32, ids: (M,) i32 -> (M,) f32. Used for prompt log-probabilities: those rows are not sampled from, so
one logit each is all that is read.
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, TensorView, ceil_div
from .signature import Signature


def reference(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The numpy twin."""
    return np.where(ids < 0, np.float32(0), logits[np.arange(len(ids)), np.maximum(ids, 0)])


def dispatch(device: Device, inputs: Sequence[TensorView], outputs: Sequence[TensorView]) -> list[Dispatch]:
    """One invocation per row."""
    logits, ids = inputs
    rows = ids.shape[0]
    return [
        Dispatch(
            "pick_logits",
            (logits.buffer, ids.buffer),
            (outputs[0].buffer,),
            (ceil_div(rows, 64), 1, 1),
            push={"rows": rows, **logits.elements("logits")},
            label="pick_logits",
        )
    ]


def _case(label: str, rows: int, vocabulary: int, ids: list[int]) -> Case:
    return Case(
        label, lambda rng: [rng.standard_normal((rows, vocabulary), np.float32), np.array(ids, np.int32)], {}, 0, 0
    )


OP = Op(
    "pick_logits",
    reference,
    dispatch,
    (
        _case("one", 1, 49152, [49151]),
        _case("unused rows", 4, 203, [202, -1, 0, -1]),
        _case("many", 70, 33, [at % 33 for at in range(70)]),
    ),
    Signature("logits (M, V) f32", "ids (M) i32"),
)

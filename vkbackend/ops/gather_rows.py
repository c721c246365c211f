"""Gather rows of a matrix: y[m] = x[rows[m]], or zeros if rows[m] is negative (an unused output).

x: (T, n) f32, rows: (M,) i32 -> (M, n) f32. n is a multiple of 4.
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, TensorView, ceil_div
from .signature import Signature


def reference(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The numpy twin."""
    return np.where(rows[:, None] < 0, np.float32(0), x[np.maximum(rows, 0)])


def dispatch(device: Device, inputs: Sequence[TensorView], outputs: Sequence[TensorView]) -> list[Dispatch]:
    """One invocation per four elements."""
    x, rows = inputs
    n4 = x.row_elements // 4
    return [
        Dispatch(
            "gather_rows",
            (x.buffer, rows.buffer),
            (outputs[0].buffer,),
            (ceil_div(n4, 64), rows.shape[0], 1),
            push={"n4": n4, **x.fours("x")},
            label="gather_rows",
        )
    ]


OP = Op(
    "gather_rows",
    reference,
    dispatch,
    (
        Case("one", lambda rng: [rng.standard_normal((1, 576), np.float32), np.array([0], np.int32)], {}, 0, 0),
        Case(
            "some",
            lambda rng: [rng.standard_normal((9, 132), np.float32), np.array([8, -1, 0, 3, 3], np.int32)],
            {},
            0,
            0,
        ),
    ),
    Signature("x (T, n) f32", "rows (M) i32", multiples={"n": 4}),
)

"""Replace some rows of a matrix, in place: x[rows[r]] = values[r]; nothing where rows[r] is negative (unused).

x: (T, n) f32, rows: (R,) i32, all different, values: (R, n) f32 -> like x. n is a multiple of 4.
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, TensorView, ceil_div
from .signature import Signature


def reference(x: np.ndarray, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The numpy twin."""
    y = x.copy()
    used = rows >= 0
    y[rows[used]] = values[used]
    return y


def dispatch(device: Device, inputs: Sequence[TensorView], outputs: Sequence[TensorView]) -> list[Dispatch]:
    """One invocation per four elements."""
    rows, values = inputs[1:]
    x = outputs[0]
    n4 = x.row_elements // 4
    return [
        Dispatch(
            "place_rows",
            (rows.buffer, values.buffer),
            (x.buffer,),
            (ceil_div(n4, 64), rows.shape[0], 1),
            push={"n4": n4, **x.fours("x"), **values.fours("values")},
            label="place_rows",
        )
    ]


def _case(label: str, tokens: int, n: int, rows: list[int]) -> Case:
    def make(rng: np.random.Generator) -> list:
        return [
            rng.standard_normal((tokens, n), np.float32),
            np.array(rows, np.int32),
            rng.standard_normal((len(rows), n), np.float32),
        ]

    return Case(label, make, {}, 0, 0)


OP = Op(
    "place_rows",
    reference,
    dispatch,
    (
        _case("one", 1, 576, [0]),
        _case("some", 9, 132, [8, -1, 0, 3, -1]),
        _case("none", 2, 32, [-1]),
    ),
    Signature("x (T, n) f32", "rows (R) i32", "values (R, n) f32", multiples={"n": 4}),
    in_place={0: 0},
)

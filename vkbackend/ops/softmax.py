"""softmax and log_softmax along the last axis.

x: (rows, n) f32 -> (rows, n) f32; n is a multiple of 4.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, TensorView, group_variant
from .signature import Signature


def softmax(x: np.ndarray) -> np.ndarray:
    """The numpy twin."""
    return np.exp(log_softmax(x))


def log_softmax(x: np.ndarray) -> np.ndarray:
    """The numpy twin; sums in f64."""
    shifted = x.astype(np.float64) - x.max(axis=-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)


def _dispatcher(kind: str) -> Callable[..., list[Dispatch]]:
    def dispatch(device: Device, inputs: Sequence[TensorView], outputs: Sequence[TensorView]) -> list[Dispatch]:
        x = inputs[0]
        name, lanes, size = group_variant(device, kind)
        return [
            Dispatch(
                name,
                (x.buffer,),
                (outputs[0].buffer,),
                (x.shape[0], 1, 1),
                {"LANES": lanes},
                {"n4": x.shape[1] // 4, **x.fours("x")},
                size,
                label=kind,
            )
        ]

    return dispatch


def _cases(atol: float, rtol: float) -> tuple[Case, ...]:
    def case(label: str, rows: int, n: int, spread: int) -> Case:
        return Case(
            label, lambda rng: [rng.standard_normal((rows, n), np.float32) * np.float32(spread)], {}, atol, rtol
        )

    return case("one row", 1, 1000, 5), case("short", 3, 4, 1), case("odd", 5, 132, 30), case("vocabulary", 2, 49152, 8)


SIGNATURE = Signature("x (rows, n) f32", multiples={"n": 4})

ALL = (
    Op("softmax", softmax, _dispatcher("softmax"), _cases(1e-6, 1e-4), SIGNATURE),
    Op("log_softmax", log_softmax, _dispatcher("log_softmax"), _cases(1e-4, 2e-6), SIGNATURE),
)

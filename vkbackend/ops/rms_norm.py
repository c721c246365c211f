"""Root-mean-square norm over the last axis: x / sqrt(mean(x^2) + eps) * weight [+ residual].

x: (T, n) or (T, heads, n) f32, weight: (n,) f32, residual: like x or None -> like x, in place or elsewhere. n
is a multiple of 4.
Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467.
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, TensorView, group_variant
from .signature import Signature


def reference(x: np.ndarray, weight: np.ndarray, residual: np.ndarray | None = None, *, eps: float) -> np.ndarray:
    """The numpy twin."""
    mean = np.add.reduce(x * x, axis=-1, keepdims=True) / np.float32(x.shape[-1])
    y = x / np.sqrt(mean + np.float32(eps))
    y *= weight
    if residual is not None:
        y += residual
    return y


def dispatch(
    device: Device,
    inputs: tuple[TensorView, TensorView, TensorView | None],
    outputs: Sequence[TensorView],
    *,
    eps: float,
) -> list[Dispatch]:
    """One group per row."""
    x, weight, residual = inputs
    y = outputs[0]
    tokens, n = x.shape[0], x.shape[-1]
    heads = x.row_elements // n
    name, lanes, size = group_variant(device, "rms_norm")
    residual_fours = residual.fours("residual") if residual else {"residual_offset": 0, "residual_stride": 0}
    return [
        Dispatch(
            name,
            (x.buffer, weight.buffer, (residual or weight).buffer),
            (y.buffer,),
            (heads, tokens, 1),
            {"LANES": lanes, "HAS_RESIDUAL": residual is not None},
            {"heads": heads, "n4": n // 4, **x.fours("x"), **residual_fours, **y.fours("y"), "eps": eps},
            size,
            label="rms_norm",
        )
    ]


def _case(label: str, shape: tuple[int, ...], residual: bool = False) -> Case:
    def make(rng: np.random.Generator) -> list:
        x = rng.standard_normal(shape, np.float32)
        return [
            x,
            rng.standard_normal(shape[-1], np.float32),
            rng.standard_normal(shape, np.float32) if residual else None,
        ]

    return Case(label, make, {"eps": 1e-5}, 2e-5, 2e-5)


OP = Op(
    "rms_norm",
    reference,
    dispatch,
    (
        _case("one row", (1, 576)),
        _case("shorter than a group", (3, 20)),
        _case("odd", (5, 132), True),
        _case("per head", (7, 3, 64)),
        _case("heads and residual", (2, 4, 256), True),
        _case("long", (2, 5000), True),
    ),
    Signature("x (T, ..., n) f32", "weight (n) f32", "residual? (T, ..., n) f32", multiples={"n": 4}),
)

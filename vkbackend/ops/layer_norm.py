"""Layer norm over the last axis: (x - mean(x)) / sqrt(variance(x) + eps) * weight [+ bias] [+ residual].

x: (T, n) or (T, heads, n) f32, weight: (n,) or (heads * n,) f32, bias: like weight or None, residual: like x or None ->
like x. n is a multiple of 4. padding: how many elements of a row are zeros that do not count; weight and bias are zero
there. The output may be x itself. Ba et al. 2016, https://arxiv.org/abs/1607.06450.
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, TensorView, group_variant
from .signature import Signature


def reference(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    *,
    eps: float,
    padding: int = 0,
) -> np.ndarray:
    """The numpy twin."""
    n = x.shape[-1]
    count = np.float32(n - padding)
    mean = np.add.reduce(x, axis=-1, keepdims=True) / count
    y = x - mean
    squares = np.add.reduce(y * y, axis=-1, keepdims=True)
    if padding:  # each zero of the padding added the square of the mean
        squares = np.maximum(squares - np.float32(padding) * mean * mean, np.float32(0))
    y /= np.sqrt(squares / count + np.float32(eps))
    shape = (n,) if len(weight) == n else (-1, n)
    y *= weight.reshape(shape)
    if bias is not None:
        y += bias.reshape(shape)
    if residual is not None:
        y += residual
    return y


def dispatch(
    device: Device,
    inputs: tuple[TensorView, TensorView, TensorView | None, TensorView | None],
    outputs: Sequence[TensorView],
    *,
    eps: float,
    padding: int = 0,
) -> list[Dispatch]:
    """One group per row."""
    x, weight, bias, residual = inputs
    tokens, n = x.shape[0], x.shape[-1]
    heads = x.row_elements // n
    name, lanes, size = group_variant(device, "layer_norm")
    residual_fours = residual.fours("residual") if residual else {"residual_offset": 0, "residual_stride": 0}
    return [
        Dispatch(
            name,
            (x.buffer, weight.buffer, (bias or weight).buffer, (residual or weight).buffer),
            (outputs[0].buffer,),
            (heads, tokens, 1),
            {"LANES": lanes, "HAS_BIAS": bias is not None, "HAS_RESIDUAL": residual is not None},
            {
                "heads": heads,
                "n4": n // 4,
                "count": n - padding,
                "weight_stride": 0 if weight.shape[0] == n else n // 4,
                **x.fours("x"),
                **residual_fours,
                **outputs[0].fours("y"),
                "eps": eps,
            },
            size,
            label="layer_norm",
        )
    ]


def _case(
    label: str,
    shape: tuple[int, ...],
    bias: bool = False,
    residual: bool = False,
    per_head: bool = False,
    padding: int = 0,
) -> Case:
    def make(rng: np.random.Generator) -> list:
        n = shape[-1]
        weights = [rng.standard_normal((shape[1] if per_head else 1, n), np.float32) for _ in range(2 if bias else 1)]
        x = rng.standard_normal(shape, np.float32) + np.float32(0.7)
        for each in (x, *weights):
            each[..., n - padding :] = 0
        return [
            x,
            weights[0].ravel(),
            weights[1].ravel() if bias else None,
            rng.standard_normal(shape, np.float32) if residual else None,
        ]

    return Case(label, make, {"eps": 1e-5, **({"padding": padding} if padding else {})}, 2e-5, 2e-5)


OP = Op(
    "layer_norm",
    reference,
    dispatch,
    (
        _case("one row", (1, 576)),
        _case("shorter than a group", (3, 20), bias=True),
        _case("bias and residual", (5, 132), bias=True, residual=True),
        _case("weights of each head", (7, 3, 64), per_head=True),
        _case("heads alike, residual", (2, 4, 256), residual=True),
        _case("padded", (4, 96), bias=True, padding=24),
        _case("long", (2, 5000), bias=True),
    ),
    Signature(
        "x (T, ..., n) f32",
        "weight (w) f32",
        "bias? (w) f32",
        "residual? (T, ..., n) f32",
        multiples={"n": 4},
        rules=(
            (
                "weight must have the elements of one head or of all",
                lambda s: s["w"] in (s["n"], int(np.prod(s["x"].shape[1:]))),
            ),
            ("padding must leave an element", lambda s: 0 <= s.get("padding", 0) < s["n"]),
        ),
    ),
)

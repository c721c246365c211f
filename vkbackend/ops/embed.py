"""Embedding lookup: rows of a quantized matrix, dequantized and multiplied by `scale`.

tokens: (T,) i32, weight: (vocabulary, K) -> (T, K) f32. Every token must be a row of the weight.
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, TensorView, ceil_div
from .packed import FORMATS, PackedMatrix
from .signature import Signature


def reference(tokens: np.ndarray, weight: PackedMatrix, *, scale: float = 1.0) -> np.ndarray:
    """The numpy twin."""
    return weight.rows(tokens) * np.float32(scale)


def dispatch(
    device: Device,
    inputs: tuple[TensorView, PackedMatrix],
    outputs: Sequence[TensorView],
    *,
    scale: float = 1.0,
) -> list[Dispatch]:
    """One dispatch per part of the weight; one invocation per 32 elements."""
    tokens, weight = inputs
    num_tokens, k = outputs[0].shape
    return [
        Dispatch(
            f"embed_{weight.format.kernels}",
            (tokens.buffer, part.quants, part.scales),
            (outputs[0].buffer,),
            (ceil_div(k // 32, 64), num_tokens, 1),
            weight.format.constants,
            {"num_blocks": k // 32, "first_row": part.first_row, "num_rows": part.num_rows, "scale": scale},
            label="embed",
        )
        for part in weight.parts
    ]


def _case(name: str, k: int, scale: float = 1.0) -> Case:
    return Case(
        f"{name} {k} wide",
        lambda rng: [np.array([0, 36, 5, 5, 17], np.int32), PackedMatrix.random(rng, name, 37, k)],
        {"scale": scale},
        1e-6,
        1e-6,
    )


OP = Op(
    "embed",
    reference,
    dispatch,
    tuple(_case(name, 256) for name in FORMATS) + (_case("q8_0", 96, 25.3),),
    Signature("tokens (T) i32", "weight (vocabulary, K) packed", multiples={"K": 32}),
)

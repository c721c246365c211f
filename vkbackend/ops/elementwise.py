"""Elementwise ops: silu_mul, gelu_mul, add, and of one argument gelu_tanh, gelu_erf, relu_squared, scale, softcap.

a, b: (rows, n) f32 -> (rows, n) f32, whose rows begin at multiples of 4 elements. n is a multiple of 4 if there are two
arguments, which, like the result, may be column ranges of wider matrices.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, TensorView, ceil_div, elementwise_variant
from .signature import Signature

GELU_SCALE = np.float32(np.sqrt(2 / np.pi))
ERF_FACTORS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def silu_mul(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """gate * sigmoid(gate) * up (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""
    y = -gate
    with np.errstate(over="ignore"):  # for gates below -88 exp gives infinity, and the quotient 0 is right
        np.exp(y, out=y)
    y += 1
    np.divide(gate, y, out=y)
    y *= up
    return y


def gelu_mul(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """gelu(gate) * up, gelu in its tanh form (Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415)."""
    y = gelu_tanh(gate)
    y *= up
    return y


def gated(kind: str, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """kind(gate) * up, where kind is "silu" or "gelu"."""
    return silu_mul(gate, up) if kind == "silu" else gelu_mul(gate, up)


def gelu_tanh(a: np.ndarray) -> np.ndarray:
    """gelu(a) in its tanh form."""
    y = a * a
    y *= np.float32(0.044715)
    y += 1
    y *= a
    y *= GELU_SCALE
    np.tanh(y, out=y)
    y += 1
    y *= a
    y *= np.float32(0.5)
    return y


def gelu_erf(a: np.ndarray) -> np.ndarray:
    """a times the normal distribution function of a: gelu as defined. The error function is Abramowitz & Stegun's
    7.1.26, whose error is below 1.5e-7.
    """
    z = a.astype(np.float64) * np.sqrt(0.5)
    t = 1 / (1 + 0.3275911 * np.abs(z))
    total = np.polyval(ERF_FACTORS, t) * t
    return (0.5 * a * (1 + np.sign(z) * (1 - total * np.exp(-z * z)))).astype(np.float32)


def relu_squared(a: np.ndarray) -> np.ndarray:
    """max(a, 0)^2 (So et al. 2021, https://arxiv.org/abs/2109.08668)."""
    y = np.maximum(a, np.float32(0))
    y *= y
    return y


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b."""
    return a + b


def scale(a: np.ndarray, *, factor: float) -> np.ndarray:
    """a * factor."""
    return a * np.float32(factor)


def softcap(a: np.ndarray, *, cap: float) -> np.ndarray:
    """cap * tanh(a / cap)."""
    return np.float32(cap) * np.tanh(a / np.float32(cap))


def _dispatcher(name: str, attribute: str = "") -> Callable[..., list[Dispatch]]:
    """attribute: the op's only attribute, passed to the kernel as `parameter`."""

    def dispatch(
        device: Device, inputs: Sequence[TensorView], outputs: Sequence[TensorView], **attrs: float
    ) -> list[Dispatch]:
        a, b, y = inputs[0], inputs[-1], outputs[0]
        rows, n4 = a.shape[0], ceil_div(a.row_elements, 4)
        places = {**a.fours("a"), **b.fours("b"), **y.fours("y")}
        return [
            Dispatch(
                elementwise_variant(device, name),
                (a.buffer, b.buffer),
                (y.buffer,),
                (ceil_div(n4, 64), rows, 1),
                push={"n4": n4, **places, "parameter": attrs[attribute] if attribute else 0.0},
                label=name,
            )
        ]

    return dispatch


def _cases(num_arguments: int, **attrs: float) -> tuple[Case, ...]:
    def case(label: str, rows: int, n: int, spread: int) -> Case:
        return Case(
            label,
            lambda rng: [rng.standard_normal((rows, n), np.float32) * np.float32(spread) for _ in range(num_arguments)],
            attrs,
            2e-5,
            2e-5,
        )

    return (
        case("one row", 1, 1536, 1),
        case("odd", 5, 132 if num_arguments > 1 else 131, 3),
        case("large values", 3, 64, 40),
    )


def _signature(*names: str) -> Signature:
    return Signature(*[f"{name} (rows, n) f32" for name in names], multiples={"n": 4} if len(names) > 1 else {})


ALL = (
    Op("silu_mul", silu_mul, _dispatcher("silu_mul"), _cases(2), _signature("gate", "up")),
    Op("gelu_mul", gelu_mul, _dispatcher("gelu_mul"), _cases(2), _signature("gate", "up")),
    Op("gelu_tanh", gelu_tanh, _dispatcher("gelu_tanh"), _cases(1), _signature("a")),
    Op("gelu_erf", gelu_erf, _dispatcher("gelu_erf"), _cases(1), _signature("a")),
    Op("relu_squared", relu_squared, _dispatcher("relu_squared"), _cases(1), _signature("a")),
    Op("add", add, _dispatcher("add"), _cases(2), _signature("a", "b")),
    Op("scale", scale, _dispatcher("scale", "factor"), _cases(1, factor=0.37), _signature("a")),
    Op("softcap", softcap, _dispatcher("softcap", "cap"), _cases(1, cap=30.0), _signature("a")),
)

"""Adds up what a token's experts computed, in the order in which they were chosen.

products: (T * used, n) f32, weights: (T, used) f32, residual: (T, n) f32 or None, shared: (T, n) f32 or None,
shared_gate: (T, 1) f32, with `shared` -> (T, n) f32: the residual, plus weights times products, plus
sigmoid(shared_gate) times shared. Products with a weight of 0 are not read. n is a multiple of 4.
"""

from collections.abc import Sequence

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, TensorView, ceil_div, elementwise_variant
from .signature import Signature


def reference(
    products: np.ndarray,
    weights: np.ndarray,
    residual: np.ndarray | None = None,
    shared: np.ndarray | None = None,
    shared_gate: np.ndarray | None = None,
) -> np.ndarray:
    """The numpy twin."""
    tokens, used = weights.shape
    split = products.reshape(tokens, used, -1)
    total = np.zeros((tokens, split.shape[2]), np.float32)
    for place in range(used):
        weight = weights[:, place, None]
        np.add(total, split[:, place] * weight, out=total, where=weight != 0)
    if residual is not None:
        total += residual
    if shared is not None:
        assert shared_gate is not None
        with np.errstate(over="ignore"):
            total += shared / (1 + np.exp(-shared_gate))
    return total


def dispatch(device: Device, inputs: Sequence[TensorView | None], outputs: Sequence[TensorView]) -> list[Dispatch]:
    """One invocation per four elements."""
    products, weights, residual, shared, shared_gate = inputs
    assert products is not None and weights is not None, "the signature says so"
    tokens, used = weights.shape
    n4 = products.row_elements // 4
    return [
        Dispatch(
            elementwise_variant(device, "mix_experts"),
            (
                products.buffer,
                (residual or products).buffer,
                (shared or products).buffer,
                weights.buffer,
                (shared_gate or weights).buffer,
            ),
            (outputs[0].buffer,),
            (ceil_div(n4, 64), tokens, 1),
            {"HAS_RESIDUAL": residual is not None, "HAS_SHARED": shared is not None},
            {
                "n4": n4,
                "num_used": used,
                **products.fours("products"),
                **(residual or products).fours("residual"),
                **(shared or products).fours("shared"),
                **weights.elements("weights"),
                **(shared_gate or weights).elements("gate"),
                **outputs[0].fours("y"),
            },
            label="mix_experts",
        )
    ]


def _case(label: str, tokens: int, used: int, n: int, residual: bool = False, shared: bool = False) -> Case:
    def make(rng: np.random.Generator) -> list:
        products = rng.standard_normal((tokens * used, n), np.float32)
        weights = rng.uniform(0.01, 1, (tokens, used)).astype(np.float32)
        if tokens > 1:  # an unused token, whose products were never written
            weights[0], products[:used] = 0, np.nan
        rows = [rng.standard_normal((tokens, n), np.float32) if there else None for there in (residual, shared)]
        return [products, weights, *rows, rng.standard_normal((tokens, 1), np.float32) if shared else None]

    return Case(label, make, {}, 1e-5, 1e-5)


OP = Op(
    "mix_experts",
    reference,
    dispatch,
    (
        _case("one token", 1, 8, 576),
        _case("residual", 5, 2, 132, residual=True),
        _case("shared expert", 3, 4, 64, residual=True, shared=True),
        _case("shared expert only", 2, 4, 64, shared=True),
    ),
    Signature(
        "products (pairs, n) f32",
        "weights (T, used) f32",
        "residual? (T, n) f32",
        "shared? (T, n) f32",
        "shared_gate? (T, 1) f32",
        multiples={"n": 4},
        rules=(
            ("products must have a row for each weight", lambda s: s["pairs"] == s["T"] * s["used"]),
            (
                "shared and shared_gate belong together",
                lambda s: (s["shared"] is None) == (s["shared_gate"] is None),
            ),
        ),
    ),
)

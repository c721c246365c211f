"""Rotary position embedding, in place: rotates pair i of a head by position * turns[i] whole turns.

x: (T, heads, head_dim) f32, positions: (T,) i32 (negative: row unchanged), turns: (n_rot + 1,) f32 from
`turns_per_position` -> like x. Pairs are (2i, 2i+1) (`adjacent`) or (i, i + n_rot/2) (`halves`); elements n_rot and
up are unchanged. Su et al. 2021, https://arxiv.org/abs/2104.09864.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from .op import Case, Op, TensorView, ceil_div
from .signature import Signature


def turns_per_position(
    base: float,
    n_rot: int,
    freq_scale: float = 1.0,
    freq_factors: np.ndarray | None = None,
    magnitude: float = 1.0,
) -> np.ndarray:
    """`as_turns` of freq_scale * base^(-2i/n_rot) / freq_factors[i] for each pair."""
    frequencies = freq_scale * np.float64(base) ** (-2.0 * np.arange(n_rot // 2) / n_rot)
    return as_turns(frequencies if freq_factors is None else frequencies / freq_factors, magnitude)


def as_turns(frequencies: np.ndarray, magnitude: float = 1.0) -> np.ndarray:
    """Frequencies of each pair in radians per position, (n_rot / 2,), as kernels take them: (n_rot + 1,) f32, first the
    leading 12 bits of each in turns, whose product with 12 bits of a position is exact, then the remainders, then what
    sines and cosines are multiplied by.
    """
    turns = frequencies.astype(np.float64) / (2 * math.pi)
    mantissa, exponent = np.frexp(turns)
    leading = np.ldexp(np.floor(mantissa * 4096) / 4096, exponent)
    return np.concatenate([leading, turns - leading, [magnitude]]).astype(np.float32)


def reference(x: np.ndarray, positions: np.ndarray, turns: np.ndarray, *, n_rot: int, pairing: str) -> np.ndarray:
    """The numpy twin."""
    return rotated(x, positions[:, None], turns, n_rot=n_rot, pairing=pairing)


def rotated(x: np.ndarray, positions: np.ndarray, turns: np.ndarray, *, n_rot: int, pairing: str) -> np.ndarray:
    """`reference` for positions of each pair: (T, n_rot / 2) i32, or (T, 1)."""
    rotation = _rotation(positions.tobytes(), len(positions), turns.tobytes())[:, None]  # the same for every head
    y = np.empty_like(x)
    y[..., n_rot:] = x[..., n_rot:]
    if pairing == "adjacent":
        np.multiply(x[..., :n_rot].view(np.complex64), rotation, out=y[..., :n_rot].view(np.complex64))
    else:
        a, b = x[..., : n_rot // 2], x[..., n_rot // 2 : n_rot]
        cos, sin = rotation.real, rotation.imag
        y[..., : n_rot // 2] = a * cos - b * sin
        y[..., n_rot // 2 : n_rot] = a * sin + b * cos
    return y


@lru_cache(maxsize=8)
def _rotation(positions: bytes, num_tokens: int, turns: bytes) -> np.ndarray:
    """cos + i sin of the angle of each token and pair, complex (T, n_rot / 2). Angles are computed in f64. Cached
    because all layers of a step use the same.
    """
    values = np.frombuffer(turns, np.float32).astype(np.float64)
    (leading, rest), magnitude = values[:-1].reshape(2, -1), values[-1]
    by_pair = np.frombuffer(positions, np.int32).reshape(num_tokens, -1)
    angle = 2 * math.pi * np.maximum(by_pair, 0) * (leading + rest)
    return (magnitude * (np.cos(angle) + 1j * np.sin(angle))).astype(np.complex64)


def dispatch(
    device: Device, inputs: Sequence[TensorView], outputs: Sequence[TensorView], *, n_rot: int, pairing: str
) -> list[Dispatch]:
    """One invocation per pair."""
    positions, turns, x = inputs[1], inputs[2], outputs[0]
    tokens, heads, head_dim = x.shape
    return [
        Dispatch(
            "rope",
            (positions.buffer, turns.buffer),
            (x.buffer,),
            (ceil_div(heads * n_rot // 2, 64), tokens, 1),
            {"HEAD_DIM": head_dim, "N_ROT": n_rot, "HALVES": pairing == "halves"},
            {"heads": heads, **x.elements("x")},
            label="rope",
        )
    ]


def _case(
    label: str,
    tokens: int,
    heads: int,
    head_dim: int,
    n_rot: int,
    pairing: str,
    factors: bool = False,
    furthest: int = 40,
    base: float = 10000.0,
    freq_scale: float = 1.0,
    magnitude: float = 1.0,
) -> Case:
    def make(rng: np.random.Generator) -> list:
        positions = rng.integers(0, furthest, tokens).astype(np.int32)
        positions[-1] = furthest
        if tokens > 4:
            positions[2] = -1
        factor = rng.uniform(1, 8, n_rot // 2) if factors else None
        return [
            rng.standard_normal((tokens, heads, head_dim), np.float32),
            positions,
            turns_per_position(base, n_rot, freq_scale, factor, magnitude),
        ]

    # The remainder of a frequency is f32 too: its rounding error, 2^-36 of the frequency, grows with the position.
    return Case(label, make, {"n_rot": n_rot, "pairing": pairing}, 5e-6 + furthest * 1e-10, 1e-6)


PAIRINGS = ("adjacent", "halves")
SIGNATURE = Signature(
    "x (T, heads, head_dim) f32",
    "positions (T) i32",
    "turns (n_rot + 1) f32",
    multiples={"n_rot": 2},
    rules=(
        ("n_rot must not exceed head_dim", lambda s: s["n_rot"] <= s["head_dim"]),
        (f"pairing must be one of {', '.join(PAIRINGS)}", lambda s: s["pairing"] in PAIRINGS),
    ),
)

OP = Op(
    "rope",
    reference,
    dispatch,
    (
        _case("adjacent", 1, 9, 64, 64, "adjacent"),
        _case("halves", 7, 3, 20, 20, "halves"),
        _case("partial", 6, 2, 64, 32, "halves"),
        _case("factors", 5, 4, 128, 128, "adjacent", factors=True),
        _case("scaled", 2, 4, 256, 256, "halves", base=1e6, freq_scale=0.125),
        _case("magnitude", 3, 4, 96, 72, "halves", magnitude=1.19),
        _case("far", 4, 3, 64, 64, "adjacent", furthest=131071),
    ),
    SIGNATURE,
    in_place={0: 0},
)

"""Rotary position embedding, in place: turn pair i of a head by position * freq_scale * base^(-2i/n_rot) / factor[i].

x: (T, heads, head_dim) f32, positions: (T,) i32 (negative: left alone), freq_factors: (n_rot/2,) f32 or None -> like x
Pairs are (2i, 2i+1) (`adjacent`) or (i, i + n_rot/2) (`halves`); elements from n_rot on stay as they are.
Su et al. 2021, https://arxiv.org/abs/2104.09864.
"""

import math

import numpy as np

from ..device.dispatch import Dispatch
from .op import Case, Op, ceil_div


def reference(x, positions, freq_factors=None, *, base, n_rot, pairing, freq_scale=1.0):
    half = n_rot // 2
    frequency = np.float64(base) ** (-2.0 * np.arange(half) / n_rot) * freq_scale
    if freq_factors is not None:
        frequency = frequency / freq_factors
    angle = np.maximum(positions, 0)[:, None, None] * frequency
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = (slice(0, half), slice(half, n_rot)) if pairing == "halves" else (slice(0, n_rot, 2), slice(1, n_rot, 2))
    y = x.copy()
    a, b = x[..., first], x[..., second]
    y[..., first] = a * cos - b * sin
    y[..., second] = a * sin + b * cos
    return y


def dispatch(device, inputs, outputs, *, base, n_rot, pairing, freq_scale=1.0):
    positions, factors, x = inputs[1], inputs[2], outputs[0]
    tokens, heads, head_dim = x.shape
    return [Dispatch("rope", (positions.buffer, (factors or positions).buffer), (x.buffer,), (ceil_div(heads * n_rot // 2, 64), tokens, 1),
                     ((0, head_dim), (1, n_rot), (2, pairing == "halves"), (3, factors is not None)),
                     (heads, x.offset, x.stride, math.log2(base), float(freq_scale)), label="rope")]


def _case(label, tokens, heads, head_dim, n_rot, pairing, factors=False, furthest=40, **attrs):
    def make(rng):
        positions = rng.integers(0, furthest, tokens).astype(np.int32)
        if tokens > 4:
            positions[2] = -1
        return [rng.standard_normal((tokens, heads, head_dim), np.float32), positions,
                rng.uniform(1, 8, n_rot // 2).astype(np.float32) if factors else None]
    # A single-precision angle of p radians is off by up to p * 2^-24, and exp2's own error goes along: the tolerance grows with positions.
    return Case(label, make, {"base": 10000.0, "n_rot": n_rot, "pairing": pairing, **attrs}, 2e-5 + furthest * 1.2e-6, 1e-5)


OP = Op("rope", reference, dispatch, (
    _case("adjacent", 1, 9, 64, 64, "adjacent"), _case("halves", 7, 3, 20, 20, "halves"), _case("partial", 6, 2, 64, 32, "halves"),
    _case("factors", 5, 4, 128, 128, "adjacent", factors=True), _case("scaled", 2, 4, 256, 256, "halves", base=1e6, freq_scale=0.125),
    _case("far", 4, 3, 64, 64, "adjacent", furthest=4000),
), in_place={0: 0})

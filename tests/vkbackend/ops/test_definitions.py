"""Numpy references beside the formulas that define them, in float64."""

import math

import numpy as np

from vkbackend.ops.run import reference, run


def test_zeros_of_padding_do_not_count(device):
    """Layer norm of rows with zeros among and after their elements, as of heads of 6 that rotate in halves."""
    rng = np.random.default_rng(5)
    x, weight, bias = (rng.standard_normal(shape) for shape in ((9, 6), 6, 6))
    centered = x - x.mean(axis=1, keepdims=True)
    expected = centered / np.sqrt(centered.var(axis=1, keepdims=True) + 1e-5) * weight + bias
    places = [0, 1, 2, 4, 5, 6]
    padded = [np.zeros((*each.shape[:-1], 8), np.float32) for each in (x, weight, bias)]
    for wide, values in zip(padded, (x, weight, bias)):
        wide[..., places] = values
    for found in (
        reference("layer_norm", *padded, eps=1e-5, padding=2),
        run(device, "layer_norm", *padded, eps=1e-5, padding=2),
    ):
        np.testing.assert_allclose(found[:, places], expected, rtol=1e-5, atol=1e-5)
        assert not found[:, [3, 7]].any()


def test_exact_gelu_is_that_of_the_error_function(device):
    x = np.linspace(-12, 12, 1001, dtype=np.float32)[None]
    expected = [each * 0.5 * (1 + math.erf(each / math.sqrt(2))) for each in x[0].astype(np.float64)]
    for found in (reference("gelu_erf", x), run(device, "gelu_erf", x)):
        np.testing.assert_allclose(found[0], expected, rtol=1e-6, atol=2e-6)

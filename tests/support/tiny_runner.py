"""Steps of runners of tiny models, and comparisons of their logits."""

import numpy as np

from vkbackend.engine.contract import SequenceWork

PROMPT = [
    3,
    50,
    99,
    7,
    7,
    120,
    200,
    31,
    64,
    5,
    18,
    77,
    210,
    4,
    150,
    33,
    92,
    11,
    240,
    66,
    8,
    1,
    130,
    45,
    61,
    17,
    29,
    180,
    222,
    14,
    90,
    41,
    55,
    70,
    2,
    101,
    9,
]


def logits(runner, sequence, tokens, outputs=1) -> np.ndarray:
    return np.stack([row.full() for row in runner.step([SequenceWork(sequence, tokens, outputs)])])


def follow(runner, tokens, outputs=1) -> np.ndarray:
    """The logits of a new sequence after `tokens`."""
    return logits(runner, runner.open_sequence(), tokens, outputs)


def assert_close(found, expected):
    """Sums in another order differ by a few units of float32, relative to the largest logit of the row."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(np.asarray(found).view(np.uint32), np.asarray(expected).view(np.uint32))

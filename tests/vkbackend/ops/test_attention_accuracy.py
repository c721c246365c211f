"""Attention with large scores, whose rounding errors the softmax turns into errors of the weights."""

import numpy as np

from vkbackend.ops.run import run

TOKENS = 48
HEADS = 4
HEAD_DIM = 256
SCALE = HEAD_DIM**-0.5
PAGES = 2


def exact(q: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Causal attention in float64; all heads share the keys and values (tokens, head_dim)."""
    scores = np.einsum("thd,sd->hts", q.astype(np.float64), keys.astype(np.float64)) * SCALE
    scores[:, ~np.tri(TOKENS, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("hts,sd->thd", weights / weights.sum(axis=-1, keepdims=True), values.astype(np.float64))


def test_scores_are_summed_in_parts(device):
    """Scores reach 61. A single float32 sum of the 256 products of each leaves an error of 1.4e-6."""
    rng = np.random.default_rng(2)
    q = 8 * rng.standard_normal((TOKENS, HEADS, HEAD_DIM), np.float32)
    keys = 2 * rng.standard_normal((TOKENS, HEAD_DIM), np.float32)
    values = rng.standard_normal((TOKENS, HEAD_DIM), np.float32)
    caches = np.zeros((2, PAGES * 32, HEAD_DIM), np.float32)
    caches[:, :TOKENS] = keys, values
    k_cache, v_cache = caches.reshape(2, PAGES, 32, 1, HEAD_DIM)
    positions = np.arange(TOKENS, dtype=np.int32)
    table = np.arange(PAGES, dtype=np.int32)[None]
    y = run(device, "attention", q, k_cache, v_cache, positions, np.zeros(TOKENS, np.int32), table, scale=SCALE)
    expected = exact(q, keys, values)
    assert np.sqrt(np.mean((y - expected) ** 2) / np.mean(expected**2)) < 1e-6

"""A forward pass of tiny models in a few lines of numpy, in float64, without cache, pages, ops or graphs: what every
token sees and turns by is said outright.
"""

import numpy as np
from tiny_gguf import HEAD_DIM, NUM_HEADS, NUM_KV_HEADS


def forward(gguf, embeddings, rope_positions, limits, axes) -> np.ndarray:
    """Logits (n, vocabulary) of n tokens of one sequence.

    embeddings: (n, width), as the first layer takes them. rope_positions: (n, 4); axes: (head_dim / 2,), the axis of
    each pair. limits: (n,), the last position that each token sees. gguf: an open file whose matrices are f32.
    """
    architecture = gguf.metadata.get("general.architecture", str)
    is_gemma = architecture == "gemma3"
    window = gguf.metadata.get("gemma3.attention.sliding_window", int) if is_gemma else 0
    at = np.arange(len(embeddings))
    x = np.asarray(embeddings, np.float64)

    def weight(name):
        return np.asarray(gguf.data(f"{name}.weight")).view(np.float32).astype(np.float64)

    def matrix(name, columns):
        return weight(name).reshape(-1, columns).T

    for layer in range(gguf.metadata.get(f"{architecture}.block_count", int)):
        block = f"blk.{layer}."
        is_local = is_gemma and layer % 6 != 5
        base = 10000.0 if is_local or not is_gemma else 1_000_000.0
        h = norm(x, weight(block + "attn_norm"))
        q, k, v = (
            (h @ matrix(f"{block}attn_{which}", x.shape[1])).reshape(len(x), heads, HEAD_DIM)
            for which, heads in (("q", NUM_HEADS), ("k", NUM_KV_HEADS), ("v", NUM_KV_HEADS))
        )
        if is_gemma:
            q, k = norm(q, weight(block + "attn_q_norm")), norm(k, weight(block + "attn_k_norm"))
        q, k = (rotated(each, rope_positions[:, axes], base, "halves" if is_gemma else "adjacent") for each in (q, k))
        seen = at[None] <= np.asarray(limits)[:, None]
        if is_local:
            seen &= at[None] > at[:, None] - window
        mixed = np.concatenate(
            [attend(q[:, head], k[:, head // 2], v[:, head // 2], seen) for head in range(NUM_HEADS)], axis=1
        )
        mixed = mixed @ matrix(block + "attn_output", NUM_HEADS * HEAD_DIM)
        x = x + (norm(mixed, weight(block + "post_attention_norm")) if is_gemma else mixed)
        h = norm(x, weight(block + "ffn_norm"))
        gate, up = h @ matrix(block + "ffn_gate", x.shape[1]), h @ matrix(block + "ffn_up", x.shape[1])
        opened = (gelu(gate) if is_gemma else gate / (1 + np.exp(-gate))) * up
        down = opened @ matrix(block + "ffn_down", opened.shape[1])
        x = x + (norm(down, weight(block + "post_ffw_norm")) if is_gemma else down)
    return norm(x, weight("output_norm")) @ matrix("token_embd" if is_gemma else "output", x.shape[1])


def norm(x, weight) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight


def gelu(x) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def rotated(x, positions, base, pairing) -> np.ndarray:
    """x (n, heads, head_dim), positions (n, head_dim / 2)."""
    half = HEAD_DIM // 2
    angle = (positions * base ** (-np.arange(half) / half))[:, None]
    first, second = (
        (slice(0, half), slice(half, None)) if pairing == "halves" else (slice(0, None, 2), slice(1, None, 2))
    )
    y = np.empty_like(x)
    y[..., first] = x[..., first] * np.cos(angle) - x[..., second] * np.sin(angle)
    y[..., second] = x[..., first] * np.sin(angle) + x[..., second] * np.cos(angle)
    return y


def attend(q, k, v, seen) -> np.ndarray:
    scores = np.where(seen, q @ k.T / np.sqrt(HEAD_DIM), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v

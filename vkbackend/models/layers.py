"""The building blocks that architectures share: linear, norm, embedding, attention over the paged cache.

In: placed weights (`weights.Weights`) and a config. Out: callables on symbolic values. Nothing here names an architecture.
"""

import numpy as np

from ..graph import functions as F
from ..graph.builder import Graph, Value
from ..ops.packed import PackedMatrix
from ..ops.rope import turns_per_position
from .weights import Vector


class Linear:
    """One or several weights with the same input, computed side by side into one (T, sum of rows) buffer."""

    def __init__(self, stacks: list[PackedMatrix], name: str):
        self.stacks, self.name = stacks, name
        self.num_rows = sum(weight.shape[0] for weight in stacks)

    def __call__(self, x: Value, residual: Value | None = None) -> Value:
        graph = x.graph
        y = graph.new(self.name, (x.shape[0], self.num_rows))
        first = 0
        for weight in self.stacks:
            rows = weight.shape[0]
            whole = rows == self.num_rows
            F.matmul(x, graph.constant(weight, weight.shape), out=y if whole else y.columns(first, rows),
                     residual=residual if whole or residual is None else residual.columns(first, rows))
            first += rows
        return y


class RMSNorm:
    def __init__(self, weight: Vector, eps: float, name: str):
        self.weight, self.eps, self.name = weight, eps, name

    def __call__(self, x: Value, residual: Value | None = None) -> Value:
        return F.rms_norm(x, x.graph.constant(self.weight, self.weight.shape), eps=self.eps, residual=residual, name=self.name)


class Embedding:
    def __init__(self, weight: PackedMatrix, scale: float = 1.0):
        self.weight, self.scale = weight, scale

    def __call__(self, graph: Graph) -> Value:
        return F.embed(graph.constant(self.weight, self.weight.shape), scale=self.scale)


class Rope:
    """How some layers rotate their queries and keys. pairing: "adjacent" (2i, 2i+1) or "halves" (i, i + n_rot/2)."""

    def __init__(self, w, base: float, n_rot: int, pairing: str, freq_scale: float = 1.0, freq_factors: np.ndarray | None = None):
        self.n_rot, self.pairing = n_rot, pairing
        self.turns = w.made("rope_turns", turns_per_position(base, n_rot, freq_scale, freq_factors))

    def __call__(self, x: Value) -> Value:
        return F.rope(x, x.graph.constant(self.turns, self.turns.shape), n_rot=self.n_rot, pairing=self.pairing)


class Attention:
    """Projections, optional per-head norms, rotation, cache, attention, output projection [+ residual]."""

    def __init__(self, w, cfg, rope: Rope, *, scale: float, window: int = 0, softcap: float = 0.0):
        self.cfg, self.rope, self.scale, self.window, self.softcap = cfg, rope, scale, window, softcap
        q_width, kv_width = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
        self.qkv = w.linear("attn_q", "attn_k", "attn_v", rows=(q_width, kv_width, kv_width), columns=cfg.width, name="qkv")
        self.output = w.linear("attn_output", rows=(cfg.width,), columns=q_width)
        self.q_norm = w.norm("attn_q_norm", cfg.norm_eps, cfg.head_dim, required=False)
        self.k_norm = w.norm("attn_k_norm", cfg.norm_eps, cfg.head_dim, required=False)
        self.layer = w.layer

    def __call__(self, x: Value, step, residual: Value | None = None) -> Value:
        cfg, tokens = self.cfg, x.shape[0]
        q_width, kv_width = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
        qkv = self.qkv(x)
        q = qkv.columns(0, q_width, "q").reshape(tokens, cfg.num_heads, cfg.head_dim)
        k = qkv.columns(q_width, kv_width, "k").reshape(tokens, cfg.num_kv_heads, cfg.head_dim)
        v = qkv.columns(q_width + kv_width, kv_width, "v").reshape(tokens, cfg.num_kv_heads, cfg.head_dim)
        if self.q_norm:
            q = self.q_norm(q)
        if self.k_norm:
            k = self.k_norm(k)
        q, k = self.rope(q), self.rope(k)

        k_cache, v_cache = step.cache(x.graph, self.layer)
        F.kv_write(k, v, k_cache, v_cache)
        y = F.attention(q, k_cache, v_cache, scale=self.scale, window=self.window, softcap=self.softcap)
        return self.output(y.reshape(tokens, q_width), residual)

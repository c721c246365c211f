"""The building blocks that architectures share: linear, norm, embedding, attention over the paged cache.

In: placed weights (`weights.Weights`) and a config. Out: callables on symbolic values. Nothing here names an
architecture.
"""

import numpy as np

from ..graph import functions as F
from ..graph.builder import Graph, Value
from ..ops.packed import PackedMatrix
from ..ops.rope import turns_per_position
from .vector import Vector


class Linear:
    """One or several weights with the same input, computed side by side into one (T, sum of rows) buffer; the
    input's norm goes along. biases: of each weight, None where it has none.
    """

    def __init__(self, stacks: list[PackedMatrix], biases: list[Vector | None], name: str):
        self.stacks, self.biases, self.name = stacks, biases, name
        self.num_rows = sum(weight.shape[0] for weight in stacks)

    def __call__(self, x: Value, norm: "RMSNorm | None" = None, residual: Value | None = None) -> Value:
        graph = x.graph
        x, fused = prepared(x, norm)
        y = graph.new(self.name, (x.shape[0], self.num_rows))
        first = 0
        for weight, bias in zip(self.stacks, self.biases):
            rows = weight.shape[0]
            whole = rows == self.num_rows
            F.matmul(
                x,
                graph.constant(weight, weight.shape),
                out=y if whole else y.columns(first, rows),
                residual=residual if whole or residual is None else residual.columns(first, rows),
                bias=constant(graph, bias),
                **fused,
            )
            first += rows
        return y


class GatedLinear:
    """act(gate(x)) * up(x) with the input's norm: one product where both weights have one format. gate: "silu" or
    "gelu".
    """

    def __init__(self, w, gate: str, *, rows: int, columns: int, name: str = "ffn_gated"):
        self.gate, self.name, self.rows = gate, name, rows
        self.both, self.bias = w.gated("ffn_gate", "ffn_up", rows=rows, columns=columns) or (None, None)
        self.apart = (
            None if self.both else w.linear("ffn_gate", "ffn_up", rows=(rows, rows), columns=columns, name="gate_up")
        )

    def __call__(self, x: Value, norm: "RMSNorm") -> Value:
        if self.apart:
            gate_up = self.apart(x, norm)
            return F.GATES[self.gate](gate_up.columns(0, self.rows), gate_up.columns(self.rows, self.rows))
        x, fused = prepared(x, norm)
        return F.matmul(
            x, constant(x.graph, self.both), bias=constant(x.graph, self.bias), gate=self.gate, name=self.name, **fused
        )


def constant(graph: Graph, weight: PackedMatrix | Vector | None) -> Value | None:
    """The value of a weight that may not be there."""
    return weight and graph.constant(weight, weight.shape)


def prepared(x: Value, norm: "RMSNorm | None") -> tuple[Value, dict]:
    """x and the arguments with which a product norms it; normed on its own where intermediates are to be seen."""
    if norm is None:
        return x, {}
    if x.graph.keep:
        return norm(x), {}
    return x, {"norm": x.graph.constant(norm.weight, norm.weight.shape), "eps": norm.eps}


class RMSNorm:
    def __init__(self, weight: Vector, eps: float, name: str):
        self.weight, self.eps, self.name = weight, eps, name

    def __call__(self, x: Value, residual: Value | None = None) -> Value:
        return F.rms_norm(
            x, x.graph.constant(self.weight, self.weight.shape), eps=self.eps, residual=residual, name=self.name
        )


class Embedding:
    def __init__(self, weight: PackedMatrix, scale: float = 1.0):
        self.weight, self.scale = weight, scale

    def __call__(self, graph: Graph) -> Value:
        return F.embed(graph.constant(self.weight, self.weight.shape), scale=self.scale)


class Rope:
    """How some layers rotate their queries and keys. pairing: "adjacent" (2i, 2i+1) or "halves" (i, i + n_rot/2)."""

    def __init__(
        self, w, base: float, n_rot: int, pairing: str, freq_scale: float = 1.0, freq_factors: np.ndarray | None = None
    ):
        self.n_rot, self.pairing = n_rot, pairing
        self.turns = w.made("rope_turns", turns_per_position(base, n_rot, freq_scale, freq_factors))


class Attention:
    """Norm, projections, optional per-head norms, rotation, cache, attention, output projection [+ residual]."""

    def __init__(self, w, cfg, rope: Rope, *, scale: float, window: int = 0, softcap: float = 0.0):
        self.cfg, self.rope, self.scale, self.window, self.softcap = cfg, rope, scale, window, softcap
        q_width, kv_width = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
        self.qkv = w.linear(
            "attn_q", "attn_k", "attn_v", rows=(q_width, kv_width, kv_width), columns=cfg.width, name="qkv"
        )
        self.output = w.linear("attn_output", rows=(cfg.width,), columns=q_width)
        self.q_norm = w.norm("attn_q_norm", cfg.norm_eps, cfg.head_dim, required=False)
        self.k_norm = w.norm("attn_k_norm", cfg.norm_eps, cfg.head_dim, required=self.q_norm is not None)
        self.layer = w.layer

    def __call__(self, x: Value, norm: RMSNorm, step, residual: Value | None = None) -> Value:
        cfg, graph, tokens = self.cfg, x.graph, x.shape[0]
        qkv = self.qkv(x, norm).reshape(tokens, cfg.num_heads + 2 * cfg.num_kv_heads, cfg.head_dim)
        k_cache, v_cache = step.cache(graph, self.layer)
        norms = [each and graph.constant(each.weight, each.weight.shape) for each in (self.q_norm, self.k_norm)]
        y = F.attend(
            qkv,
            graph.constant(self.rope.turns, self.rope.turns.shape),
            *norms,
            k_cache,
            v_cache,
            num_heads=cfg.num_heads,
            n_rot=self.rope.n_rot,
            pairing=self.rope.pairing,
            eps=cfg.norm_eps,
            scale=self.scale,
            window=self.window,
            softcap=self.softcap,
        )
        return self.output(y.reshape(tokens, cfg.num_heads * cfg.head_dim), residual=residual)

"""The blocks that architectures share: gated feed-forward, rotary positions, attention over the paged cache.

In: `weights.Weights` and a config. Out: callables on symbolic values. Nothing here names an architecture.
"""

from dataclasses import replace

import numpy as np

from ..graph import functions as F
from ..graph.builder import Graph, Value
from ..graph.model import Caches
from ..graph.vector import Vector
from ..ops.rope import as_turns
from .axes import Axis, Stack
from .decoder_config import DecoderConfig, RopeKind
from .layers import Norm, optional, prepared
from .weights import Weights


class GatedLinear:
    """act(gate(norm(x))) * up(norm(x)); one product if both weights have the same format and no adapter changes them.
    gate: "silu" or "gelu". suffix: of the weights' names.
    """

    def __init__(self, w: Weights, gate: str, *, rows: Axis, columns: Axis, suffix: str = ""):
        self.gate = gate
        self.name = f"ffn_gated{suffix}"
        self.rows = rows.total
        gate_name, up_name = f"ffn_gate{suffix}", f"ffn_up{suffix}"
        self.weight = w.gated(gate_name, up_name, rows=rows, columns=columns)
        names, sizes = ([gate_name, up_name], [rows, rows]) if w.has(gate_name) else ([up_name], [Stack((rows, rows))])
        self.bias = w.bias(names, sizes) if self.weight else None
        if not self.weight:
            self.separate = w.linear(*names, rows=sizes, columns=columns, name="gate_up")

    def __call__(self, x: Value, norm: Norm | None) -> Value:
        """x: (T, columns) -> (T, rows)."""
        if not self.weight:
            gate_up = self.separate(x, norm)
            return F.GATES[self.gate](gate_up.columns(0, self.rows), gate_up.columns(self.rows, self.rows))
        x, fused = prepared(x, norm)
        weight, bias = x.graph.constant(self.weight), optional(x.graph, self.bias)
        return F.matmul(x, weight, bias=bias, gate=self.gate, name=self.name, **fused)


class ActivatedLinear:
    """act(up(norm(x))): a feed-forward without a gate. suffix: of the weight's name."""

    def __init__(self, w: Weights, activation: str, *, rows: Axis, columns: Axis, suffix: str = ""):
        self.activation = activation
        self.up = w.linear(f"ffn_up{suffix}", rows=(rows,), columns=columns)

    def __call__(self, x: Value, norm: Norm | None) -> Value:
        """x: (T, columns) -> (T, rows)."""
        return F.activation(self.up(x, norm), self.activation)


class FeedForward:
    """down(gate(norm(x)) * up(norm(x))) [+ residual], or down(act(up(norm(x)))) [+ residual].

    rows: of the gate and up; None: those of a dense layer. suffix: of the weights' names.
    """

    def __init__(self, w: Weights, cfg: DecoderConfig, rows: Axis | None = None, suffix: str = ""):
        rows, columns = rows or cfg.feed_forward_axis, cfg.width_axis
        if cfg.activation:
            self.hidden = ActivatedLinear(w, cfg.activation, rows=rows, columns=columns, suffix=suffix)
        else:
            self.hidden = GatedLinear(w, cfg.gate, rows=rows, columns=columns, suffix=suffix)
        self.down = w.linear(f"ffn_down{suffix}", rows=(cfg.width_axis,), columns=rows)

    def __call__(self, x: Value, norm: Norm | None, caches: Caches, residual: Value | None = None) -> Value:
        """x: (T, width), normalized here -> (T, width), with `residual` added."""
        return self.down(self.hidden(x, norm), residual=residual)


class Rope:
    """How layers rotate queries and keys.

    turns: as `rope.as_turns` gives them. long_turns: in contexts of more than `kind.short_context` tokens; None: as in
    shorter ones. axes: of tokens whose rope position has several numbers, which one of the four each pair turns by:
    int32 (num_rotated / 2,); None: the first.
    """

    def __init__(self, w: Weights, kind: RopeKind, axes: np.ndarray | None = None):
        self.kind = kind
        factors, long_factors = _frequency_factors(w, kind)
        self.turns = _turns(w, kind, factors)
        self.long_turns = _turns(w, kind, long_factors) if long_factors else None
        self.axes = None if axes is None else w.constant("rope_axes", axes.astype(np.int32))

    def __call__(self, graph: Graph, context_length: int) -> F.Rotation:
        """The rotation as values of `graph`. context_length: tokens that one sequence may have."""
        turns = (self.long_turns if context_length > self.kind.short_context else None) or self.turns
        return F.Rotation(graph.constant(turns), self.kind.pairing, optional(graph, self.axes))


def _frequency_factors(w: Weights, kind: RopeKind) -> tuple[Vector | None, Vector | None]:
    """Divisors of the frequencies of each pair, and those of long contexts if they differ."""
    if not kind.reads_factors:
        return None, None
    pairs = kind.num_rotated // 2
    if w.has("rope_freqs"):
        return w.vector("rope_freqs", pairs), None
    return w.optional_vector("rope_factors_short", pairs), w.optional_vector("rope_factors_long", pairs)


def _turns(w: Weights, kind: RopeKind, factors: Vector | None) -> Vector:
    frequencies = kind.frequencies() / (factors.values if factors else 1)
    frequencies = np.pad(frequencies, (0, -len(frequencies) % 2))  # kernels rotate multiples of four elements
    return w.constant("rope_turns", as_turns(frequencies, kind.magnitude if kind.rotates else 1.0))


class HeadNorms:
    """RMS norms of each query and key head. last: after the rotation."""

    def __init__(self, w: Weights, eps: float, head: Axis, last: bool):
        self.q = w.norm("attn_q_norm", eps, head)
        self.k = w.norm("attn_k_norm", eps, head)
        self.last = last

    def __call__(self, graph: Graph) -> F.HeadNorms:
        """The norms as values of `graph`."""
        return F.HeadNorms(graph.constant(self.q.weight), graph.constant(self.k.weight), self.q.eps, self.last)


class RowNorms:
    """RMS norms of all heads of the queries together, and of the keys."""

    def __init__(self, w: Weights, eps: float, q: Axis, k: Axis):
        self.q = w.norm("attn_q_norm", eps, q)
        self.k = w.norm("attn_k_norm", eps, k)

    def __call__(self, qkv: Value) -> None:
        """Normalize the queries and keys of qkv (T, q.total + k.total + values) in place."""
        q_columns, k_columns = self.q.weight.shape[0], self.k.weight.shape[0]
        for norm, part in ((self.q, qkv.columns(0, q_columns)), (self.k, qkv.columns(q_columns, k_columns))):
            norm(part, out=part)


class HeadLayerNorms:
    """Layer norms of each query and key head, with weights of its own for each."""

    def __init__(self, w: Weights, cfg: DecoderConfig):
        self.head_dim = cfg.head_dim
        self.norms = [
            (w.layer_norm(name, cfg.norm_eps, replace(cfg.qk_axis, groups=count)), count)
            for name, count in (("attn_q_norm", cfg.num_heads), ("attn_k_norm", cfg.num_kv_heads))
        ]

    def __call__(self, qkv: Value) -> None:
        """Normalize the queries and keys of qkv (T, (heads + 2 kv_heads) * head_dim) in place."""
        first = 0
        for norm, count in self.norms:
            heads = qkv.columns(first, count * self.head_dim).reshape(qkv.shape[0], count, self.head_dim)
            norm(heads, out=heads)
            first += count * self.head_dim


class Attention:
    """Norm, projections, optional per-head norms, rotation, cache, attention, output projection [+ residual]."""

    def __init__(self, w: Weights, cfg: DecoderConfig, rope: Rope):
        self.cfg = cfg
        self.rope = rope
        self.window = cfg.window_of(w.layer)
        heads = (
            replace(cfg.qk_axis, groups=cfg.num_heads),
            replace(cfg.qk_axis, groups=cfg.num_kv_heads),
            replace(cfg.v_axis, groups=cfg.num_kv_heads),
        )
        names, rows = (("attn_qkv",), (Stack(heads),)) if w.has("attn_qkv") else (("attn_q", "attn_k", "attn_v"), heads)
        self.qkv = w.linear(*names, rows=rows, columns=cfg.width_axis, name="qkv")
        self.output = w.linear("attn_output", rows=(cfg.width_axis,), columns=replace(cfg.v_axis, groups=cfg.num_heads))
        self.head_norms, self.separate_norms = None, None  # fused with the rotation, and before it
        if w.has("attn_q_norm") and cfg.norm == "layer":
            self.separate_norms = HeadLayerNorms(w, cfg)
        elif w.has("attn_q_norm") and cfg.qk_norms == "row":
            self.separate_norms = RowNorms(w, cfg.norm_eps, *heads[:2])
        elif w.has("attn_q_norm"):
            self.head_norms = HeadNorms(w, cfg.norm_eps, cfg.qk_axis, cfg.qk_norms == "rotated")
        self.layer = w.layer

    def __call__(self, x: Value, norm: Norm | None, caches: Caches, residual: Value | None = None) -> Value:
        """x: (T, width), normalized here -> (T, width), with `residual` added. Stores keys and values in `caches`."""
        cfg, graph, tokens = self.cfg, x.graph, x.shape[0]
        qkv = self.qkv(x, norm)
        if self.separate_norms:
            self.separate_norms(qkv)
        y = F.attend(
            qkv.reshape(tokens, cfg.num_heads + 2 * cfg.num_kv_heads, cfg.head_dim),
            self.rope(graph, caches.context_length),
            self.head_norms and self.head_norms(graph),
            caches.cache(graph, self.layer),
            num_heads=cfg.num_heads,
            scale=cfg.score_scale,
            window=self.window,
            softcap=cfg.score_softcap,
        )
        return self.output(y.reshape(tokens, cfg.num_heads * cfg.head_dim), residual=residual)

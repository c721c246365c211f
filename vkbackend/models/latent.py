"""Attention whose heads share one row of low rank for keys and values (DeepSeek-AI 2024,
https://arxiv.org/abs/2405.04434, section 2.1).

In: `weights.Weights` and a config with `latent`. Out: a callable on symbolic values, like `blocks.Attention`. Queries
are multiplied by the keys' up-projection of their head, so that the cache holds the latent row itself: it is the key
of all heads, after the rotated elements, and their value, which the up-projection of values turns into each head's.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..graph import functions as F
from ..graph.builder import Value
from ..graph.model import Caches
from ..ops.packed import PackedMatrix
from .blocks import Rope
from .decoder_config import DecoderConfig, LatentSizes
from .layers import Linear, Norm
from .weights import Weights


@dataclass(frozen=True)
class Queries:
    """norm(x) times the queries' weight, or times two of low rank with a norm between them."""

    linear: Linear
    low: Linear | None
    low_norm: Norm | None

    @classmethod
    def read(cls, w: Weights, cfg: DecoderConfig) -> "Queries":
        """From attn_q, or from attn_q_a and attn_q_b."""
        rows = (replace(cfg.qk_axis, groups=cfg.num_heads),)
        assert cfg.latent is not None
        rank = cfg.latent.q_axis
        if rank is None:
            return cls(w.linear("attn_q", rows=rows, columns=cfg.width_axis), None, None)
        return cls(
            w.linear("attn_q_b", rows=rows, columns=rank),
            w.linear("attn_q_a", rows=(rank,), columns=cfg.width_axis),
            w.norm("attn_q_a_norm", cfg.norm_eps, rank),
        )

    def __call__(self, x: Value, norm: Norm | None) -> Value:
        """(T, width) -> (T, heads * elements of a head), a head's elements as in the file."""
        return self.linear(self.low(x, norm), self.low_norm) if self.low else self.linear(x, norm)


class LatentAttention:
    """Norm, projections, rotation, cache, attention, output projection [+ residual]."""

    def __init__(self, w: Weights, cfg: DecoderConfig, rope: Rope):
        assert cfg.latent is not None
        self.cfg = cfg
        self.sizes = cfg.latent
        self.rope = rope
        self.window = cfg.window_of(w.layer)
        self.layer = w.layer
        self.queries = Queries.read(w, cfg)
        self.row = w.linear("attn_kv_a_mqa", rows=(self.sizes.row_axis,), columns=cfg.width_axis)
        self.row_norm = w.norm("attn_kv_a_norm", cfg.norm_eps, self.sizes.rank_axis)
        self.to_keys, self.to_values = _up_projections(w, cfg, self.sizes)
        self.output = w.linear("attn_output", rows=(cfg.width_axis,), columns=replace(cfg.v_axis, groups=cfg.num_heads))

    def __call__(self, x: Value, norm: Norm | None, caches: Caches, residual: Value | None = None) -> Value:
        """x: (T, width), normalized here -> (T, width), with `residual` added. Stores latent rows in `caches`."""
        cfg, graph, tokens = self.cfg, x.graph, x.shape[0]
        heads, size, rank = cfg.num_heads, cfg.head_dim, self.sizes.rank_axis.total
        qkv = graph.new("qkv", (tokens, (heads + 2) * size))
        key, value = qkv.columns(heads * size, size), qkv.columns((heads + 1) * size, size)
        self.row(x, norm, out=key)
        latent = key.columns(self.sizes.rotated, rank)
        self.row_norm(latent, out=latent)
        F.scale(key, 1.0, out=value)
        _each_head(self.queries(x, norm), self.to_keys, qkv.columns(0, heads * size), cfg.qk_axis.padded)
        y = F.attend(
            qkv.reshape(tokens, heads + 2, size),
            self.rope(graph, caches.context_length),
            None,
            caches.cache(graph, self.layer),
            num_heads=heads,
            scale=cfg.score_scale,
            window=self.window,
            softcap=cfg.score_softcap,
        )
        values = graph.new("values", (tokens, heads * cfg.v_axis.padded))
        mixed = y.reshape(tokens, heads * size).columns(self.sizes.rotated, heads * size - self.sizes.rotated)
        _each_head(mixed, self.to_values, values, size)
        return self.output(values, residual=residual)


def _each_head(x: Value, weights: list[PackedMatrix], out: Value, stride: int) -> None:
    """out (T, heads * rows): of each head, elements of x (T, ...) times the head's weight (rows, columns).

    stride: from the first element of a head in x to that of the next; less than `columns` reads none of the next.
    """
    for head, weight in enumerate(weights):
        rows, columns = weight.shape
        part = x.columns(head * stride, columns)
        F.matmul(part, x.graph.constant(weight), out=out.columns(head * rows, rows))


def _up_projections(
    w: Weights, cfg: DecoderConfig, sizes: LatentSizes
) -> tuple[list[PackedMatrix], list[PackedMatrix]]:
    """Of each head: from its query as in the file, whose last elements rotate, to its query on latent rows; and from
    its mix of latent rows to its output.
    """
    heads, rank, num_values = cfg.num_heads, sizes.rank_axis.size, cfg.v_axis.size
    still = cfg.qk_axis.size - sizes.num_rotated
    axes = cfg.v_axis, sizes.rank_axis
    if w.has("attn_kv_b"):
        shape = heads * (still + num_values), rank
        up = w.dequantized("attn_kv_b", shape).reshape(heads, -1, rank)[:, :still].transpose(0, 2, 1)
        values = w.factors_of_groups("attn_kv_b", shape, heads, *axes, first=still)
    else:
        up = w.dequantized("attn_k_b", (heads, rank, still))
        values = w.factors_of_groups("attn_v_b", (heads, num_values, rank), heads, *axes)
    keys = np.zeros((heads, cfg.head_dim, cfg.qk_axis.padded), np.float32)
    keys[:, : sizes.num_rotated, still : still + sizes.num_rotated] = np.eye(sizes.num_rotated)
    keys[:, sizes.rotated : sizes.rotated + rank, :still] = up
    return [w.factor_from_array(f"attn_k_b.{head}", each) for head, each in enumerate(keys)], values

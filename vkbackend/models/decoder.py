"""A decoder built from the data of a `DecoderConfig`: embedding, blocks of attention and feed-forward, output.

In: `weights.Weights` and a config. Out: the `Model` of every architecture that is made of such blocks.
"""

from ..graph import functions as F
from ..graph.builder import Graph, Value
from ..graph.model import Caches
from .blocks import Attention, FeedForward, Rope
from .decoder_config import DecoderConfig
from .experts import ExpertFeedForward
from .latent import LatentAttention
from .layers import Norm
from .weights import Weights

Inner = Attention | LatentAttention | FeedForward | ExpertFeedForward


def norm_of(w: Weights, cfg: DecoderConfig, name: str, factor: float = 1.0) -> Norm:
    """The norm `name` of rows, of the kind that the architecture has."""
    make = w.layer_norm if cfg.norm == "layer" else w.norm
    return make(name, cfg.norm_eps, cfg.width_axis, factor)


def feed_forward_of(w: Weights, cfg: DecoderConfig) -> FeedForward | ExpertFeedForward:
    """The feed-forward of a block: experts where the file has their router."""
    has_experts = cfg.experts is not None and w.has("ffn_gate_inp")
    return ExpertFeedForward(w, cfg) if has_experts else FeedForward(w, cfg)


class SubBlock:
    """Attention or feed-forward with its norms: x + scale * post_norm(inner(pre_norm(x)))."""

    def __init__(self, w: Weights, cfg: DecoderConfig, inner: Inner, pre_norm: str, post_norm: str):
        self.inner = inner
        self.pre_norm = norm_of(w, cfg, pre_norm) if cfg.pre_norms else None
        self.post_norm = norm_of(w, cfg, post_norm) if post_norm and w.has(post_norm) else None
        self.scale = cfg.residual_scale

    def __call__(self, x: Value, caches: Caches) -> Value:
        """(T, width) -> (T, width)."""
        if self.scale == 1:
            if self.post_norm is None:
                return self.inner(x, self.pre_norm, caches, residual=x)
            return self.post_norm(self.inner(x, self.pre_norm, caches), residual=x)
        y = self.inner(x, self.pre_norm, caches)
        return F.add(x, F.scale(self.post_norm(y) if self.post_norm else y, self.scale))


class Block:
    """One layer: attention, then feed-forward."""

    def __init__(self, w: Weights, cfg: DecoderConfig, rope: Rope):
        attention = (LatentAttention if cfg.latent else Attention)(w, cfg, rope)
        self.attention = SubBlock(w, cfg, attention, cfg.attention_norm, cfg.attention_post_norm)
        self.feed_forward = SubBlock(w, cfg, feed_forward_of(w, cfg), cfg.feed_forward_norm, "post_ffw_norm")

    def __call__(self, x: Value, caches: Caches) -> Value:
        """(T, width) -> (T, width)."""
        return self.feed_forward(self.attention(x, caches), caches)


class ParallelBlock:
    """One layer whose attention and feed-forward have the same input: x + attention(norm(x)) + feed_forward(norm(x)).
    The norms may be one and the same.
    """

    def __init__(self, w: Weights, cfg: DecoderConfig, rope: Rope):
        self.attention = Attention(w, cfg, rope)
        self.feed_forward = feed_forward_of(w, cfg)
        self.attention_norm = norm_of(w, cfg, cfg.attention_norm)
        is_shared = cfg.feed_forward_norm == cfg.attention_norm
        self.feed_forward_norm = None if is_shared else norm_of(w, cfg, cfg.feed_forward_norm)

    def __call__(self, x: Value, caches: Caches) -> Value:
        """(T, width) -> (T, width)."""
        if self.feed_forward_norm is None:
            normalized = self.attention_norm(x)
            y = self.attention(normalized, None, caches, residual=x)
            return self.feed_forward(normalized, None, caches, residual=y)
        y = self.attention(x, self.attention_norm, caches, residual=x)
        return self.feed_forward(x, self.feed_forward_norm, caches, residual=y)


class Decoder:
    """The logits use the embedding's matrix if the file has no `output`."""

    def __init__(self, w: Weights, cfg: DecoderConfig):
        self.cfg = cfg
        self.embed = w.embedding("token_embd", columns=cfg.width_axis, scale=cfg.embedding_scale)
        if cfg.learned_positions:
            self.embed.positions = w.matrix("position_embd", rows=(cfg.context_length,), columns=cfg.width_axis)
        ropes = {kind: Rope(w, kind) for kind in dict.fromkeys(cfg.ropes)}
        make_block = ParallelBlock if cfg.is_parallel else Block
        self.blocks = [make_block(w.block(i), cfg, ropes[cfg.ropes[i]]) for i in range(cfg.num_layers)]
        for i in range(cfg.num_layers, cfg.num_layers + cfg.skipped_layers):
            w.block(i).skip()
        self.output_norm = norm_of(w, cfg, "output_norm", cfg.logit_scale)
        self.output = w.linear("output", rows=(cfg.vocab_size,), columns=cfg.width_axis, fallback="token_embd")

    def __call__(self, graph: Graph, caches: Caches) -> Value:
        """The hidden states of the step's tokens before the last norm: (T, width)."""
        x = self.embed(graph)
        for i, block in enumerate(self.blocks):
            with graph.scope(f"blk.{i}"):
                x = block(x, caches)
        return x

    def logits(self, x: Value) -> Value:
        """(M, width) -> (M, vocabulary)."""
        logits = self.output(x, self.output_norm)
        return F.softcap(logits, self.cfg.logit_softcap) if self.cfg.logit_softcap else logits

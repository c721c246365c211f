"""A decoder built from the data of a `DecoderConfig`: embedding, blocks of attention and feed-forward, output.

In: `weights.Weights` and a config. Out: the `Model` of every architecture that is made of such blocks.
"""

from ..graph import functions as F
from ..graph.builder import Graph, Value
from ..graph.model import Caches
from .blocks import Attention, FeedForward, Rope
from .decoder_config import DecoderConfig
from .weights import Weights


class SubBlock:
    """Attention or feed-forward with its norms: x + scale * post_norm(inner(pre_norm(x)))."""

    def __init__(self, w: Weights, cfg: DecoderConfig, inner: Attention | FeedForward, pre_norm: str, post_norm: str):
        self.inner = inner
        self.pre_norm = w.norm(pre_norm, cfg.norm_eps, cfg.width_axis) if cfg.pre_norms else None
        self.post_norm = w.norm(post_norm, cfg.norm_eps, cfg.width_axis) if post_norm and w.has(post_norm) else None
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
        self.attention = SubBlock(w, cfg, Attention(w, cfg, rope), "attn_norm", cfg.attention_post_norm)
        self.feed_forward = SubBlock(w, cfg, FeedForward(w, cfg), cfg.feed_forward_norm, "post_ffw_norm")

    def __call__(self, x: Value, caches: Caches) -> Value:
        """(T, width) -> (T, width)."""
        return self.feed_forward(self.attention(x, caches), caches)


class Decoder:
    """The logits use the embedding's matrix if the file has no `output`."""

    def __init__(self, w: Weights, cfg: DecoderConfig):
        self.cfg = cfg
        self.embed = w.embedding("token_embd", columns=cfg.width_axis, scale=cfg.embedding_scale)
        ropes = {kind: Rope(w, kind) for kind in dict.fromkeys(cfg.ropes)}
        self.blocks = [Block(w.block(i), cfg, ropes[cfg.ropes[i]]) for i in range(cfg.num_layers)]
        self.output_norm = w.norm("output_norm", cfg.norm_eps, cfg.width_axis, cfg.logit_scale)
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

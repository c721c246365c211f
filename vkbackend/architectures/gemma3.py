"""gemma3 (text): norms before and after each sub-block, per-head q and k norms, GELU gate, five sliding-window
layers to each global one, embedding scaled by sqrt(width).

Norm weights are stored with their 1 already added. q and k rotate in halves; local layers rotate with base 10,000.
"""

from dataclasses import dataclass
from typing import Self

from ..graph import functions as F
from ..graph.builder import Graph, Value
from ..graph.model import Caches
from ..models.blocks import Attention, GatedLinear, Rope
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters
from ..models.layers import Embedding
from ..models.weights import Weights

LOCAL_ROPE_BASE = 10000.0
GLOBAL_EVERY = 6  # layers 5, 11, 17, ... see the whole context


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """window: positions that a local layer sees; 0: every layer is global. logit_softcap: 0 for none."""

    window: int
    logit_softcap: float

    @classmethod
    def from_gguf(cls, meta: Hyperparameters) -> Self:
        """meta: looks up keys under "gemma3."."""
        return cls.read(
            meta,
            default_head_dim=256,
            default_rope_base=1_000_000.0,
            partial_rotation=False,
            window=meta.get_int("attention.sliding_window", 0, least=0),
            logit_softcap=meta.get_float("final_logit_softcapping", 0.0),
        )

    @property
    def attention_scale(self) -> float:
        """Factor on scores. Only the 27B model, which has 62 layers, scales by the width per head, not by head_dim."""
        return (self.width / self.num_heads if self.num_layers == 62 else self.head_dim) ** -0.5

    def window_of(self, layer: int) -> int:
        """Positions that the layer sees; 0: all of the context."""
        return 0 if layer % GLOBAL_EVERY == GLOBAL_EVERY - 1 else self.window


class Block:
    """One layer. The config decides whether it sees the whole context or a window; its rope follows from that."""

    def __init__(self, w: Weights, cfg: Config, ropes: dict[bool, Rope]):
        is_global = cfg.window_of(w.layer) == 0
        self.attn_norm = w.norm("attn_norm", cfg.norm_eps, cfg.width)
        self.attention = Attention(w, cfg, ropes[is_global], scale=cfg.attention_scale)
        self.post_attention_norm = w.norm("post_attention_norm", cfg.norm_eps, cfg.width)
        self.ffn_norm = w.norm("ffn_norm", cfg.norm_eps, cfg.width)
        self.gated = GatedLinear(w, "gelu", rows=cfg.feed_forward, columns=cfg.width)
        self.down = w.linear("ffn_down", rows=(cfg.width,), columns=cfg.feed_forward)
        self.post_ffw_norm = w.norm("post_ffw_norm", cfg.norm_eps, cfg.width)

    def __call__(self, x: Value, caches: Caches) -> Value:
        """(T, width) -> (T, width)."""
        x = self.post_attention_norm(self.attention(x, self.attn_norm, caches), residual=x)
        return self.post_ffw_norm(self.down(self.gated(x, self.ffn_norm)), residual=x)


class Model:
    """A gemma3 text model. The logits use the embedding's matrix if the file has no `output`."""

    def __init__(self, w: Weights, cfg: Config):
        self.cfg = cfg
        self.embed = Embedding(w.matrix("token_embd", columns=cfg.width), scale=cfg.width**0.5)
        ropes = {
            True: Rope(w, cfg.rope_base, cfg.head_dim, "halves", cfg.rope_scale),
            False: Rope(w, LOCAL_ROPE_BASE, cfg.head_dim, "halves"),
        }
        self.blocks = [Block(w.block(i), cfg, ropes) for i in range(cfg.num_layers)]
        self.output_norm = w.norm("output_norm", cfg.norm_eps, cfg.width)
        self.output = w.linear("output", rows=(cfg.vocab_size,), columns=cfg.width, fallback="token_embd")

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

"""gemma3 (text): norms before and after each sub-block, per-head q and k norms, GELU gate, five sliding-window
layers to each global one, embedding scaled by sqrt(width).

Norm weights are stored with their 1 already added. q and k rotate in halves; local layers rotate with base 10,000.
"""

from dataclasses import dataclass

from ..graph import functions as F
from ..graph.builder import Graph, Value
from ..graph.model import Caches
from ..models.blocks import Attention, GatedLinear, Rope
from ..models.hyperparameters import Hyperparameters
from ..models.layers import Embedding
from ..models.weights import Weights

LOCAL_ROPE_BASE = 10000.0
GLOBAL_EVERY = 6  # layers 5, 11, 17, ... see the whole context


@dataclass(frozen=True)
class Config:
    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    feed_forward: int
    context_length: int
    vocab_size: int
    norm_eps: float
    rope_base: float
    rope_scale: float
    window: int
    attention_scale: float
    logit_softcap: float

    @classmethod
    def from_gguf(cls, meta: Hyperparameters) -> "Config":
        """meta: looks up keys under "gemma3."."""
        num_layers = meta.num_layers()
        width = meta.get_int("embedding_length")
        heads = meta.get_int("attention.head_count")
        head_dim = meta.get_int("attention.key_length", 256)
        kv_heads = meta.get_int("attention.head_count_kv", heads)
        meta.check_heads(heads, kv_heads, head_dim, head_dim)
        meta.check_dense()
        feed_forward = meta.get_int("feed_forward_length")
        meta.check_shapes(
            width=width, feed_forward=feed_forward, q_width=heads * head_dim, kv_width=kv_heads * head_dim
        )
        return cls(
            num_layers=num_layers,
            width=width,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            feed_forward=feed_forward,
            context_length=meta.get_int("context_length"),
            vocab_size=meta.vocab_size,
            norm_eps=meta.get_float("attention.layer_norm_rms_epsilon"),
            rope_base=meta.get_float("rope.freq_base", 1_000_000.0, least=1.0),
            rope_scale=meta.linear_rope_scale(),
            window=meta.get_int("attention.sliding_window", 0, least=0),
            # Only the 27B model, which has 62 layers, scales by the width per head instead of by head_dim.
            attention_scale=(width / heads if num_layers == 62 else head_dim) ** -0.5,
            logit_softcap=meta.get_float("final_logit_softcapping", 0.0),
        )

    def is_global(self, layer: int) -> bool:
        return self.window == 0 or layer % GLOBAL_EVERY == GLOBAL_EVERY - 1


class Block:
    def __init__(self, w: Weights, cfg: Config, ropes: dict[bool, Rope]):
        everywhere = cfg.is_global(w.layer)
        self.attn_norm = w.norm("attn_norm", cfg.norm_eps, cfg.width)
        self.attention = Attention(
            w, cfg, ropes[everywhere], scale=cfg.attention_scale, window=0 if everywhere else cfg.window
        )
        self.post_attention_norm = w.norm("post_attention_norm", cfg.norm_eps, cfg.width)
        self.ffn_norm = w.norm("ffn_norm", cfg.norm_eps, cfg.width)
        self.gated = GatedLinear(w, "gelu", rows=cfg.feed_forward, columns=cfg.width)
        self.down = w.linear("ffn_down", rows=(cfg.width,), columns=cfg.feed_forward)
        self.post_ffw_norm = w.norm("post_ffw_norm", cfg.norm_eps, cfg.width)

    def __call__(self, x: Value, caches: Caches) -> Value:
        x = self.post_attention_norm(self.attention(x, self.attn_norm, caches), residual=x)
        return self.post_ffw_norm(self.down(self.gated(x, self.ffn_norm)), residual=x)


class Model:
    Config = Config

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
        x = self.embed(graph)
        for i, block in enumerate(self.blocks):
            with graph.scope(f"blk.{i}"):
                x = block(x, caches)
        return x

    def logits(self, x: Value) -> Value:
        """(M, width) -> (M, vocabulary)."""
        logits = self.output(x, self.output_norm)
        return F.softcap(logits, self.cfg.logit_softcap) if self.cfg.logit_softcap else logits

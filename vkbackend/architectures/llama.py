"""llama: pre-norm blocks, grouped-query attention with rotary positions, SiLU-gated feed-forward.

GGUF stores llama's q and k permuted so that rotation takes neighbouring pairs.
"""

from dataclasses import dataclass

from ..graph.builder import Graph, Value
from ..graph.model import Caches
from ..models.blocks import Attention, GatedLinear, Rope
from ..models.hyperparameters import Hyperparameters
from ..models.layers import Embedding
from ..models.weights import Weights


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
    rope_dim: int
    rope_scale: float

    @classmethod
    def from_gguf(cls, meta: Hyperparameters) -> "Config":
        """meta: looks up keys under "llama."."""
        width = meta.get_int("embedding_length")
        heads = meta.get_int("attention.head_count")
        kv_heads = meta.get_int("attention.head_count_kv", heads)
        head_dim = meta.get_int("attention.key_length", width // heads)
        rope_dim = meta.get_int("rope.dimension_count", head_dim)
        meta.check_heads(heads, kv_heads, head_dim, rope_dim)
        meta.check_dense()
        feed_forward = meta.get_int("feed_forward_length")
        meta.check_shapes(
            width=width, feed_forward=feed_forward, q_width=heads * head_dim, kv_width=kv_heads * head_dim
        )
        return cls(
            num_layers=meta.num_layers(),
            width=width,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            feed_forward=feed_forward,
            context_length=meta.get_int("context_length"),
            vocab_size=meta.vocab_size,
            norm_eps=meta.get_float("attention.layer_norm_rms_epsilon"),
            rope_base=meta.get_float("rope.freq_base", 10000.0, least=1.0),
            rope_dim=rope_dim,
            rope_scale=meta.linear_rope_scale(),
        )


class Block:
    def __init__(self, w: Weights, cfg: Config, rope: Rope):
        self.attn_norm = w.norm("attn_norm", cfg.norm_eps, cfg.width)
        self.attention = Attention(w, cfg, rope, scale=cfg.head_dim**-0.5)
        self.ffn_norm = w.norm("ffn_norm", cfg.norm_eps, cfg.width)
        self.gated = GatedLinear(w, "silu", rows=cfg.feed_forward, columns=cfg.width)
        self.down = w.linear("ffn_down", rows=(cfg.width,), columns=cfg.feed_forward)

    def __call__(self, x: Value, caches: Caches) -> Value:
        x = self.attention(x, self.attn_norm, caches, residual=x)
        return self.down(self.gated(x, self.ffn_norm), residual=x)


class Model:
    Config = Config

    def __init__(self, w: Weights, cfg: Config):
        self.cfg = cfg
        self.embed = Embedding(w.matrix("token_embd", columns=cfg.width))
        factors = w.optional_vector("rope_freqs", cfg.rope_dim // 2)
        rope = Rope(w, cfg.rope_base, cfg.rope_dim, "adjacent", cfg.rope_scale, factors and factors.values)
        self.blocks = [Block(w.block(i), cfg, rope) for i in range(cfg.num_layers)]
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
        return self.output(x, self.output_norm)

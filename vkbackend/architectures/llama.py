"""llama: pre-norm blocks, grouped-query attention with rotary positions, SiLU-gated feed-forward.

GGUF stores llama's q and k permuted so that rotation takes neighbouring pairs.
"""

from ..graph.builder import Graph, Value
from ..graph.model import Caches
from ..models.blocks import Attention, GatedLinear, Rope
from ..models.decoder_config import DecoderConfig
from ..models.layers import Embedding
from ..models.weights import Weights

Config = DecoderConfig


class Block:
    """One layer: attention and feed-forward, each added to its input."""

    def __init__(self, w: Weights, cfg: Config, rope: Rope):
        self.attn_norm = w.norm("attn_norm", cfg.norm_eps, cfg.width)
        self.attention = Attention(w, cfg, rope, scale=cfg.head_dim**-0.5)
        self.ffn_norm = w.norm("ffn_norm", cfg.norm_eps, cfg.width)
        self.gated = GatedLinear(w, "silu", rows=cfg.feed_forward, columns=cfg.width)
        self.down = w.linear("ffn_down", rows=(cfg.width,), columns=cfg.feed_forward)

    def __call__(self, x: Value, caches: Caches) -> Value:
        """(T, width) -> (T, width)."""
        x = self.attention(x, self.attn_norm, caches, residual=x)
        return self.down(self.gated(x, self.ffn_norm), residual=x)


class Model:
    """A llama model. The logits use the embedding's matrix if the file has no `output`."""

    def __init__(self, w: Weights, cfg: Config):
        self.cfg = cfg
        self.embed = Embedding(w.matrix("token_embd", columns=cfg.width))
        factors = w.optional_vector("rope_freqs", cfg.rope_dim // 2)
        rope = Rope(w, cfg.rope_base, cfg.rope_dim, "adjacent", cfg.rope_scale, factors and factors.values)
        self.blocks = [Block(w.block(i), cfg, rope) for i in range(cfg.num_layers)]
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
        return self.output(x, self.output_norm)

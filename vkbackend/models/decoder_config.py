"""The sizes that decoders share, read from the metadata of a GGUF file and checked against its tensors.

In: `Hyperparameters`. Out: a `DecoderConfig`, which an architecture extends by what only it has.
"""

from dataclasses import dataclass
from typing import Any, Self

from ..graph.model import Config
from .hyperparameters import Hyperparameters


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Config):
    """Sizes of a dense decoder with rotary positions.

    rope_dim: leading elements of a head that rotate. rope_scale: factor on positions.
    """

    rope_dim: int
    rope_base: float
    rope_scale: float

    @classmethod
    def from_gguf(cls, meta: Hyperparameters) -> Self:
        """meta: looks up keys under the architecture's prefix. Raises GGUFError, UnsupportedModel."""
        return cls.read(meta)

    @classmethod
    def read(
        cls,
        meta: Hyperparameters,
        *,
        default_head_dim: int | None = None,
        default_rope_base: float = 10_000.0,
        partial_rotation: bool = True,
        **own: Any,
    ) -> Self:
        """Read and check the shared sizes; `own` are the fields that a subclass adds.

        default_head_dim: if the file does not say it; None divides the width by the number of heads.
        partial_rotation: whether `rope.dimension_count` may leave a part of a head as it is; if not, the key is
        ignored. Raises GGUFError if a size is missing, out of range or contradicts another or the tensors;
        UnsupportedModel for a mixture of experts, a rope scaling or a head size that is not implemented.
        """
        num_layers = meta.num_layers()
        width = meta.get_int("embedding_length")
        num_heads = meta.get_int("attention.head_count")
        num_kv_heads = meta.get_int("attention.head_count_kv", num_heads)
        head_dim = meta.get_int("attention.key_length", default_head_dim or width // num_heads)
        rope_dim = meta.get_int("rope.dimension_count", head_dim) if partial_rotation else head_dim
        meta.check_heads(num_heads, num_kv_heads, head_dim, rope_dim)
        meta.check_dense()  # experts have feed-forward sizes of their own
        feed_forward = meta.get_int("feed_forward_length")
        meta.check_shapes(
            width=width, feed_forward=feed_forward, q_width=num_heads * head_dim, kv_width=num_kv_heads * head_dim
        )
        return cls(
            num_layers=num_layers,
            width=width,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            feed_forward=feed_forward,
            context_length=meta.get_int("context_length"),
            vocab_size=meta.vocab_size,
            norm_eps=meta.get_float("attention.layer_norm_rms_epsilon"),
            rope_dim=rope_dim,
            rope_base=meta.get_float("rope.freq_base", default_rope_base, least=1.0),
            rope_scale=meta.linear_rope_scale(),
            **own,
        )

"""falcon: attention and feed-forward in parallel on one layer norm, or on two in the larger models; one weight for q, k
and v, exact GELU without a gate; heads rotate in halves.
"""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "falcon."."""
    cfg = DecoderConfig.read(meta, pairing="halves", norm="layer")
    return replace(
        cfg,
        activation="gelu_erf",
        is_parallel=True,
        attention_norm="attn_norm_2" if meta.has_weight("blk.0.attn_norm_2") else "attn_norm",
        feed_forward_norm="attn_norm",
    )

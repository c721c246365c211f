"""phi2: one layer norm for attention and feed-forward, which run in parallel; biases everywhere, GELU without a gate; a
part of each head rotates, in halves.
"""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "phi2."."""
    cfg = DecoderConfig.read(meta, pairing="halves", norm="layer")
    return replace(cfg, activation="gelu_tanh", is_parallel=True, feed_forward_norm="attn_norm")

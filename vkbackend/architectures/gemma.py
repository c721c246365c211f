"""gemma: embedding scaled by sqrt(width), GELU gate; heads rotate in halves. Norm weights are stored with their 1."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "gemma."."""
    cfg = DecoderConfig.read(meta, pairing="halves", partial_rotation=False)
    return replace(cfg, gate="gelu", embedding_scale=cfg.hidden_size**0.5)

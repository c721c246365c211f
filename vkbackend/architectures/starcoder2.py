"""starcoder2: layer norms, biases everywhere, GELU without a gate; heads rotate in halves."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "starcoder2."."""
    return replace(DecoderConfig.read(meta, pairing="halves", norm="layer"), activation="gelu_tanh")

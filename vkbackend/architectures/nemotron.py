"""nemotron: layer norms, whose weights are stored with their 1, and squared ReLU without a gate; a part of each head
rotates, in halves.
"""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "nemotron."."""
    return replace(DecoderConfig.read(meta, pairing="halves", norm="layer"), activation="relu_squared")

"""arcee: llama with squared ReLU in place of a gate."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "arcee."."""
    return replace(DecoderConfig.read(meta, pairing="adjacent"), activation="relu_squared")

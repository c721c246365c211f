"""qwen2: llama with biases on q, k and v, whose heads rotate in halves."""

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "qwen2."."""
    return DecoderConfig.read(meta, pairing="halves")

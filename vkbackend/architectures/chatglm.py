"""chatglm: llama with one weight for q, k and v, with biases; a part of each head rotates."""

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "chatglm."."""
    return DecoderConfig.read(meta, pairing="adjacent")

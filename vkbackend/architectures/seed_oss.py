"""seed_oss: llama with biases on q, k and v, whose heads rotate in halves; its second norm has another name."""

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "seed_oss."."""
    return DecoderConfig.read(meta, pairing="halves")

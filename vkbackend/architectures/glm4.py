"""glm4: llama with norms before and after each sub-block; a part of each head rotates."""

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "glm4."."""
    return DecoderConfig.read(meta, pairing="adjacent")

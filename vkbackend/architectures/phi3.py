"""phi3 (phi4): llama with one weight for q, k and v and one for gate and up; heads rotate in halves."""

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "phi3."."""
    return DecoderConfig.read(meta, pairing="halves")

"""exaone: llama, whose heads rotate in halves, with factors on the frequencies."""

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "exaone."."""
    return DecoderConfig.read(meta, pairing="halves")

"""internlm2: llama."""

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "internlm2."."""
    return DecoderConfig.read(meta, pairing="adjacent")

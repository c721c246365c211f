"""mistral3 (text): llama with a head size of its own."""

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "mistral3."."""
    return DecoderConfig.read(meta, pairing="adjacent")

"""ernie4_5: llama, tied or not, with a head size of its own."""

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "ernie4_5."."""
    return DecoderConfig.read(meta, pairing="adjacent")

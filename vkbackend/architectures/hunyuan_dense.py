"""hunyuan-dense: q and k norms per head, after the rotation."""

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "hunyuan-dense."."""
    return DecoderConfig.read(meta, pairing="halves")

"""smollm3: llama in which every fourth layer does not rotate."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "smollm3."."""
    cfg = DecoderConfig.read(meta, pairing="adjacent")
    return replace(cfg, ropes=tuple(replace(rope, rotates=i % 4 != 3) for i, rope in enumerate(cfg.ropes)))

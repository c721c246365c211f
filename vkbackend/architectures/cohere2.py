"""cohere2: command-r with a window; every fourth layer sees all positions and rotates nothing."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters
from . import command_r

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "cohere2."."""
    cfg = command_r.config(meta).with_windows(meta.get_int("attention.sliding_window", 0, least=0), whole_every=4)
    return replace(cfg, ropes=tuple(replace(rope, rotates=layer % 4 != 3) for layer, rope in enumerate(cfg.ropes)))

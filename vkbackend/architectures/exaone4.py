"""exaone4: norms after each sub-block only, and norms of queries and keys. In models with a window every fourth layer
sees all positions and rotates nothing.
"""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "exaone4."."""
    cfg = DecoderConfig.read(meta, pairing="halves")
    cfg = replace(cfg, pre_norms=False)
    window = meta.get_int("attention.sliding_window", 0, least=0)
    if not window:
        return cfg
    cfg = cfg.with_windows(window, whole_every=4)
    return replace(cfg, ropes=tuple(replace(rope, rotates=each > 0) for rope, each in zip(cfg.ropes, cfg.windows)))

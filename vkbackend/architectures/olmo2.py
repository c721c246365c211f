"""olmo2 (and olmo3): norms after each sub-block only; queries and keys are normalized over all heads together.

olmo3 has a window in three of four layers; those layers rotate without the scaling of the others.
"""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

GLOBAL_EVERY = 4  # layers 3, 7, 11, ... see the whole context

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "olmo2."."""
    cfg = replace(DecoderConfig.read(meta, pairing="halves"), pre_norms=False, qk_norms="row")
    cfg = cfg.with_windows(meta.get_int("attention.sliding_window", 0, least=0), GLOBAL_EVERY)
    whole = cfg.ropes[0]
    local = replace(whole, scale=1.0, extends_from=0, magnitude=1.0)
    return replace(cfg, ropes=tuple(local if window else whole for window in cfg.windows))

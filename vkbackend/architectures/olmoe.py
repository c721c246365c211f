"""olmoe: a mixture of experts whose weights keep the softmax's sum, and norms over whole rows of queries and keys."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "olmoe."."""
    cfg = DecoderConfig.read(meta, pairing="halves")
    return replace(cfg, qk_norms="row", experts=cfg.experts and replace(cfg.experts, renormalize=False))

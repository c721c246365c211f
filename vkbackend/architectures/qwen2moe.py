"""qwen2moe: qwen2 with a mixture of experts, whose weights keep the softmax's sum, and a gated shared expert."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "qwen2moe."."""
    cfg = DecoderConfig.read(meta, pairing="halves")
    return replace(cfg, experts=cfg.experts and replace(cfg.experts, renormalize=False))

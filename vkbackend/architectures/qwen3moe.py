"""qwen3moe: qwen3 with a mixture of experts, whose weights add up to 1, or if the file says so keep the softmax's."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "qwen3moe."."""
    cfg = DecoderConfig.read(meta, pairing="halves")
    renormalize = meta.get_bool("norm_top_k_prob", True)
    return replace(cfg, experts=cfg.experts and replace(cfg.experts, renormalize=renormalize))

"""minicpm: granite's factors, with defaults of its own where the file has none."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "minicpm."."""
    cfg = DecoderConfig.read(meta, pairing="adjacent")
    return replace(
        cfg,
        embedding_scale=meta.get_float("embedding_scale", 12.0),
        residual_scale=meta.get_float("residual_scale", 1.4 / cfg.num_layers**0.5),
        logit_scale=1 / meta.get_float("logit_scale", 256 / cfg.hidden_size),
    )

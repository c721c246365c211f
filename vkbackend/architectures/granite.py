"""granite: llama with factors on embeddings, on what each sub-block adds, on scores, and a divisor of logits."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "granite."."""
    cfg = DecoderConfig.read(meta, pairing="adjacent")
    return replace(
        cfg,
        embedding_scale=meta.get_float("embedding_scale", 1.0),
        residual_scale=meta.get_float("residual_scale", 1.0),
        score_scale=meta.get_float("attention.scale", 0.0) or cfg.score_scale,
        logit_scale=1 / (meta.get_float("logit_scale", 1.0) or 1.0),
    )

"""gemma2: gemma with norms after each sub-block, soft-caps on scores and logits, and a window in every second layer."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "gemma2."."""
    cfg = DecoderConfig.read(meta, pairing="halves", partial_rotation=False)
    cfg = cfg.with_windows(meta.get_int("attention.sliding_window", 4096, least=0), whole_every=2)
    # Only the 27B model, which has 46 layers, scales scores by the width per head, not by head_dim.
    score_scale = (cfg.hidden_size / cfg.num_heads) ** -0.5 if cfg.num_layers == 46 else cfg.score_scale
    return replace(
        cfg,
        gate="gelu",
        embedding_scale=cfg.hidden_size**0.5,
        score_scale=score_scale,
        score_softcap=meta.get_float("attn_logit_softcapping", 50.0),
        logit_softcap=meta.get_float("final_logit_softcapping", 30.0),
    )

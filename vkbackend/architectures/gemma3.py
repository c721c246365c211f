"""gemma3 (text): norms before and after each sub-block, per-head q and k norms, GELU gate, five sliding-window
layers to each global one, embedding scaled by sqrt(width).

Norm weights are stored with their 1 already added. q and k rotate in halves; local layers rotate with base 10,000.
"""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig, RopeKind
from ..models.hyperparameters import Hyperparameters

LOCAL_ROPE_BASE = 10_000.0
GLOBAL_EVERY = 6  # layers 5, 11, 17, ... see the whole context

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "gemma3."."""
    cfg = DecoderConfig.read(
        meta, pairing="halves", default_head_dim=256, default_rope_base=1_000_000.0, partial_rotation=False
    )
    cfg = cfg.with_windows(meta.get_int("attention.sliding_window", 0, least=0), GLOBAL_EVERY)
    whole = replace(cfg.ropes[0], reads_factors=False)
    local = RopeKind(LOCAL_ROPE_BASE, whole.num_rotated, "halves")
    # Only the 27B model, which has 62 layers, scales scores by the width per head, not by head_dim.
    score_scale = (cfg.hidden_size / cfg.num_heads) ** -0.5 if cfg.num_layers == 62 else cfg.score_scale
    return replace(
        cfg,
        gate="gelu",
        embedding_scale=cfg.hidden_size**0.5,
        score_scale=score_scale,
        logit_softcap=meta.get_float("final_logit_softcapping", 0.0),
        ropes=tuple(local if window else whole for window in cfg.windows),
    )

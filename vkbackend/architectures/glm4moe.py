"""glm4moe: partial rotation, leading dense layers, then experts chosen by sigmoids with a bias, and a shared expert.

The blocks that predict further tokens are left out.
"""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "glm4moe."."""
    cfg = DecoderConfig.read(meta, pairing="halves")
    skipped = meta.get_int("nextn_predict_layers", 0, least=0)
    return replace(
        cfg,
        num_layers=cfg.num_layers - skipped,
        skipped_layers=skipped,
        ropes=cfg.ropes[: cfg.num_layers - skipped],
        windows=cfg.windows[: cfg.num_layers - skipped],
        feed_forward_norm="post_attention_norm",
        attention_post_norm="",
        experts=cfg.experts and cfg.experts.routed(meta, gating="sigmoid", renormalize=True),
    )

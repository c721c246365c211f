"""deepseek2: heads share a latent row for keys and values; experts after the first layers."""

import math
from dataclasses import replace

from ..models.axes import Axis, padded_head
from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig, LatentSizes
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "deepseek2."."""
    cfg = DecoderConfig.read(meta, pairing="adjacent")
    rope = cfg.ropes[0]
    rank = Axis.of(meta.get_rank("attention.kv_lora_rank", "blk.0.attn_kv_a_norm"), 32)
    q_rank = None
    if meta.get_int("attention.q_lora_rank", 0, least=0):
        q_rank = Axis.of(meta.get_rank("attention.q_lora_rank", "blk.0.attn_q_a_norm"), 32)
    latent = LatentSizes(rope.num_rotated, rank, q_rank)
    queries = Axis.of(cfg.qk_axis.size, 32)
    values = replace(cfg.v_axis, padded=padded_head(cfg.v_axis.size, cfg.num_heads, least=4))
    # YaRN's factor is on scores, once for the queries and once for the keys, instead of on sines and cosines.
    magnitude = 1 - meta.get_float("rope.scaling.yarn_log_multiplier", 0.0) * math.log(rope.scale)
    return replace(
        cfg,
        latent=latent,
        num_kv_heads=1,
        head_dim=latent.row_axis.padded,
        qk_axis=Axis(1, range(queries.size), queries.total),
        v_axis=values,
        ropes=tuple(replace(each, magnitude=1.0) for each in cfg.ropes),
        score_scale=cfg.score_scale * magnitude**2,
        experts=cfg.experts and cfg.experts.routed(meta, gating="softmax", renormalize=False),
    )

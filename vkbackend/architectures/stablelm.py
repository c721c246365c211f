"""stablelm: layer norms, a SiLU gate; a part of each head rotates, in halves. Files without `ffn_norm` run attention
and feed-forward in parallel on one norm; some have layer norms of each query and key head.
"""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "stablelm."."""
    cfg = DecoderConfig.read(meta, pairing="halves", norm="layer")
    if meta.has_weight("blk.0.ffn_norm"):
        return cfg
    return replace(cfg, is_parallel=True, feed_forward_norm="attn_norm")

"""command-r: one layer norm without a bias for attention and feed-forward, which run in parallel; a factor on logits.
The large model has layer norms of each query and key head.
"""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "command-r."."""
    cfg = DecoderConfig.read(meta, pairing="adjacent", norm="layer")
    return replace(cfg, is_parallel=True, feed_forward_norm="attn_norm", logit_scale=meta.get_float("logit_scale"))

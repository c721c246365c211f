"""seed_oss: llama with biases on q, k and v, whose heads rotate in halves. The norm before the feed-forward has the
name that other architectures give to the one after attention.
"""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "seed_oss."."""
    cfg = DecoderConfig.read(meta, pairing="halves")
    return replace(cfg, feed_forward_norm="post_attention_norm", attention_post_norm="")

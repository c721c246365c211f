"""qwen3: q and k norms per head, a head size of its own, no biases; heads rotate in halves.
Embedding models take the last token's state, scaled to unit length.
"""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "qwen3."."""
    cfg = DecoderConfig.read(meta, pairing="halves")
    return replace(cfg, unit_embeddings=meta.pooling() == "last")

"""hunyuan-dense: llama with norms of queries and keys per head, after the rotation; heads rotate in halves."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "hunyuan-dense."."""
    return replace(DecoderConfig.read(meta, pairing="halves"), qk_norms="rotated")

"""gptneox: layer norms, biases everywhere, exact GELU without a gate; a part of each head rotates, in halves. Attention
and feed-forward run in parallel, with a norm each, unless the file says otherwise.
"""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "gptneox."."""
    cfg = DecoderConfig.read(meta, pairing="halves", norm="layer")
    return replace(cfg, activation="gelu_erf", is_parallel=meta.get_bool("use_parallel_residual", True))

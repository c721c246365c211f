"""starcoder: gpt2 with one key and value head for all queries."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "starcoder."."""
    cfg = DecoderConfig.read(meta, pairing="adjacent", norm="layer")
    return replace(
        cfg,
        activation="gelu_tanh",
        learned_positions=True,
        ropes=tuple(replace(rope, rotates=False) for rope in cfg.ropes),
    )

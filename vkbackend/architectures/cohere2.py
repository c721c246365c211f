"""cohere2: command-r with a window; every fourth layer sees all positions and rotates nothing."""

from dataclasses import replace

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "cohere2."."""
    cfg = DecoderConfig.read(meta, pairing="adjacent", norm="layer")
    window = meta.get_int("attention.sliding_window", 0, least=0)
    return replace(
        cfg,
        is_parallel=True,
        feed_forward_norm="attn_norm",
        logit_scale=meta.get_float("logit_scale"),
        windows=tuple(0 if layer % 4 == 3 else window for layer in range(cfg.num_layers)),
        ropes=tuple(replace(rope, rotates=layer % 4 != 3) for layer, rope in enumerate(cfg.ropes)),
    )

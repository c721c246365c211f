"""llama, and what has its layers: pre-norm blocks, grouped-query attention with rotary positions, SiLU gate.

GGUF stores llama's q and k permuted so that rotation takes neighbouring pairs.
"""

from ..models.decoder import Decoder
from ..models.decoder_config import DecoderConfig
from ..models.hyperparameters import Hyperparameters

Model = Decoder


def config(meta: Hyperparameters) -> DecoderConfig:
    """meta: looks up keys under "llama."."""
    return DecoderConfig.read(meta, pairing="adjacent")

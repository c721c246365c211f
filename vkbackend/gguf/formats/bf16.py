"""BF16: the upper halves of floats."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import split_plain
from ..quant_format import BLOCK, QuantFormat, Unpacked


def unpack(blocks: np.ndarray) -> Unpacked:
    """Values, f32 (n, 1), from blocks of one element, uint8 (n, 2)."""
    return (blocks.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32), None, None


def encode(values: np.ndarray) -> np.ndarray:
    """Truncates, does not round."""
    return np.ascontiguousarray(np.ascontiguousarray(values).view(np.uint16)[:, 1::2]).view(np.uint8)


FORMAT = QuantFormat(
    GGMLQuantizationType.BF16, split_plain, unpack, quant_words=16, scale_words=0, record=BLOCK, encode=encode
)

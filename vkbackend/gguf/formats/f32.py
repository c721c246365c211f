"""F32: floats."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import split_plain
from ..quant_format import BLOCK, QuantFormat, Unpacked


def unpack(blocks: np.ndarray) -> Unpacked:
    """Values, f32 (n, 1), from blocks of one element, uint8 (n, 4)."""
    return blocks.view(np.float32), None, None


def encode(values: np.ndarray) -> np.ndarray:
    """The bytes of f32 (rows, K), uint8 (rows, 4 K)."""
    return np.ascontiguousarray(values).view(np.uint8)


FORMAT = QuantFormat(
    GGMLQuantizationType.F32, split_plain, unpack, quant_words=32, scale_words=0, record=BLOCK, encode=encode
)

"""F16: half floats."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import split_plain
from ..quant_format import BLOCK, QuantFormat, Unpacked


def unpack(blocks: np.ndarray) -> Unpacked:
    """Values, f16 (n, 1), from blocks of one element, uint8 (n, 2)."""
    return blocks.view(np.float16), None, None


def encode(values: np.ndarray) -> np.ndarray:
    """Round f32 (rows, K) to the nearest half floats, uint8 (rows, 2 K)."""
    return values.astype(np.float16).view(np.uint8)


FORMAT = QuantFormat(
    GGMLQuantizationType.F16, split_plain, unpack, quant_words=16, scale_words=0, record=BLOCK, encode=encode
)

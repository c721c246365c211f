"""F32: floats."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import split_plain
from ..quant_format import BLOCK, QuantFormat, Unpacked


def unpack(blocks: np.ndarray) -> Unpacked:
    return blocks.view(np.float32), None, None


def encode(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint8)


FORMAT = QuantFormat(
    GGMLQuantizationType.F32, split_plain, unpack, quant_words=32, scale_words=0, record=BLOCK, encode=encode
)

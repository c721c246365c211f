"""F16: half floats."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import split_plain
from ..quant_format import BLOCK, QuantFormat, Unpacked


def unpack(blocks: np.ndarray) -> Unpacked:
    return blocks.view(np.float16), None, None


def encode(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).view(np.uint8)


FORMAT = QuantFormat(
    GGMLQuantizationType.F16, split_plain, unpack, quant_words=16, scale_words=0, record=BLOCK, encode=encode
)

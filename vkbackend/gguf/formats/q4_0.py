"""Q4_0: 32 codes of 4 bits, one half scale."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import half, halves, nibbles, paired, signed, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    return words(blocks[..., 2:]), paired(half(blocks, 0))


def unpack(blocks: np.ndarray) -> Unpacked:
    return signed(nibbles(blocks, 2, 16), 8), halves(blocks, 0), None


FORMAT = QuantFormat(GGMLQuantizationType.Q4_0, split, unpack, quant_words=4, scale_words=1, record=64)

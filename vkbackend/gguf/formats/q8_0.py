"""Q8_0: 32 signed bytes, one half scale."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import half, halves, paired, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 34) -> codes (rows, blocks, 8) and scales (rows, ceil(blocks / 2)), uint32.

    A block: half d, 32 signed bytes. 128 is added to each code.
    """
    return words(blocks[..., 2:]) ^ np.uint32(0x80808080), paired(half(blocks, 0))


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 34) -> codes -128 ... 127 (n, 32) and scales d (n, 1)."""
    return blocks[:, 2:].view(np.int8), halves(blocks, 0), None


FORMAT = QuantFormat(
    GGMLQuantizationType.Q8_0, split, unpack, quant_words=8, scale_words=1, record=64, largest_code=128
)

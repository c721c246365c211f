"""Q4_0: 32 codes of 4 bits, one half scale."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import half, halves, nibbles, paired, signed, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 18) -> codes (rows, blocks, 4) and scales (rows, ceil(blocks / 2)), uint32.

    A block: half d, 16 bytes of two codes each.
    """
    return words(blocks[..., 2:]), paired(half(blocks, 0))


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 18) -> codes -8 ... 7 (n, 32) and scales d (n, 1)."""
    return signed(nibbles(blocks, 2, 16), 8), halves(blocks, 0), None


FORMAT = QuantFormat(GGMLQuantizationType.Q4_0, split, unpack, quant_words=4, scale_words=1, record=64)

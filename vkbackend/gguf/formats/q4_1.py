"""Q4_1: 32 codes of 4 bits, half scale and half minimum."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import halves, nibbles, words
from ..quant_format import BLOCK, Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 20) -> codes (rows, blocks, 4) and scales (rows, blocks, 1), uint32.

    A block: halves d and m, 16 bytes of two codes each.
    """
    return words(blocks[..., 4:]), words(blocks[..., :4])


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 20) -> codes 0 ... 15 (n, 32), scales d and offsets m (n, 1)."""
    scale_and_offset = halves(blocks, 0, 2)
    return nibbles(blocks, 4, 16), scale_and_offset[:, :1], scale_and_offset[:, 1:]


FORMAT = QuantFormat(
    GGMLQuantizationType.Q4_1,
    split,
    unpack,
    quant_words=4,
    scale_words=1,
    record=BLOCK,
    half_positions=(0, 2),
    largest_code=16,
)

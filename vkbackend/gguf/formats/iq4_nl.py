"""IQ4_NL: 32 codes of 4 bits that stand for 16 values (`blocks.IQ4_VALUES`), one half scale."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import IQ4_VALUES, half, halves, looked_up, nibbles, paired, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 18) -> codes (rows, blocks, 4) and scales (rows, ceil(blocks / 2)), uint32.

    A block: half d, 16 bytes of two codes each.
    """
    return words(blocks[..., 2:]), paired(half(blocks, 0))


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 18) -> codes -127 ... 113 (n, 32) and scales d (n, 1)."""
    return looked_up(IQ4_VALUES, nibbles(blocks, 2, 16)), halves(blocks, 0), None


FORMAT = QuantFormat(
    GGMLQuantizationType.IQ4_NL,
    split,
    unpack,
    quant_words=4,
    scale_words=1,
    record=64,
    largest_code=127,
    shader="iq4",
    constants={"IS_XS": False},
)

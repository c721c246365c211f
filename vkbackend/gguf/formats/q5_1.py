"""Q5_1: 32 codes of 5 bits, half scale and half minimum."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import each_bit, fifth_bits, fifth_word, halves, nibbles, words
from ..quant_format import BLOCK, Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 24) -> codes (rows, blocks, 4) and scales (rows, blocks, 2), uint32.

    A block: halves d and m, 4 bytes of fifth bits, 16 bytes of the low bits of two codes each.
    """
    return words(blocks[..., 8:]), np.concatenate(
        [fifth_word(each_bit(blocks[..., 4:8]))[..., None], words(blocks[..., :4])], axis=-1
    )


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 24) -> codes 0 ... 31 (n, 32), scales d and offsets m (n, 1)."""
    scale_and_offset = halves(blocks, 0, 2)
    return nibbles(blocks, 8, 16) | fifth_bits(blocks, 4), scale_and_offset[:, :1], scale_and_offset[:, 1:]


FORMAT = QuantFormat(
    GGMLQuantizationType.Q5_1,
    split,
    unpack,
    quant_words=4,
    scale_words=2,
    record=BLOCK,
    half_positions=(0, 2),
    largest_code=32,
)

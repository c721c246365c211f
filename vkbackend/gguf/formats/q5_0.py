"""Q5_0: 32 codes of 5 bits, one half scale."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import each_bit, fifth_bits, fifth_word, half, halves, nibbles, paired, signed, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 22) -> codes (rows, blocks, 4) and scales (rows, ceil(blocks / 2), 3), uint32.

    A block: half d, 4 bytes of fifth bits, 16 bytes of the low bits of two codes each.
    """
    fifth, d = fifth_word(each_bit(blocks[..., 2:6])), half(blocks, 0)
    if fifth.shape[1] % 2:
        fifth = np.concatenate([fifth, np.zeros_like(fifth[:, :1])], axis=1)
    return words(blocks[..., 6:]), np.stack([fifth[:, 0::2], fifth[:, 1::2], paired(d)], axis=-1)


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 22) -> codes -16 ... 15 (n, 32) and scales d (n, 1)."""
    return signed(nibbles(blocks, 6, 16) | fifth_bits(blocks, 2), 16), halves(blocks, 0), None


FORMAT = QuantFormat(GGMLQuantizationType.Q5_0, split, unpack, quant_words=4, scale_words=3, record=64, largest_code=16)

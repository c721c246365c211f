"""Q1_0: 128 bits for -1 and 1, one half scale. Devices hold it as Q4_0."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import each_bit, half, halves, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 18) -> codes 7 and 9 (rows, blocks, 16) and scales (rows, blocks * 2), uint32.

    A block: half d, 16 bytes of bits.
    """
    bits = each_bit(blocks[..., 2:]).reshape(*blocks.shape[:2], 4, 2, 16)
    codes = np.uint8(7) + 2 * bits
    packed = codes[..., 0, :] | codes[..., 1, :] << 4
    return words(packed.reshape(*blocks.shape[:2], 64)), np.repeat(half(blocks, 0) * np.uint32(0x10001), 2, axis=1)


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 18) -> codes -1 and 1 (n, 128) and scales d (n, 1)."""
    return 2 * each_bit(blocks[:, 2:]).astype(np.int8) - np.int8(1), halves(blocks, 0), None


FORMAT = QuantFormat(
    GGMLQuantizationType.Q1_0,
    split,
    unpack,
    quant_words=4,
    scale_words=1,
    record=64,
    largest_code=1,
    shader="q4_0",
)

"""Q5_K: 256 codes of 5 bits, a 6-bit scale and minimum for every 32."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import fifth_word, k_scales, k_scales_and_offsets, nibbles, nibbles_by_block, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 176) -> codes (rows, blocks, 8, 4) and scales (rows, blocks, 13), uint32.

    A block: halves d and dmin, 12 bytes of 8 scales and 8 minimums, 32 bytes of fifth bits, 128 bytes of the low
    bits of two codes each.
    """
    scales = np.ascontiguousarray(k_scales(blocks[..., 4:16])).reshape(*blocks.shape[:2], 16)
    high = blocks[..., 16:48]
    fifth = np.stack([fifth_word(high >> block & 1) for block in range(8)], axis=-1)
    return words(nibbles_by_block(blocks[..., 48:])), np.concatenate(
        [words(blocks[..., :4]), words(scales), fifth], axis=-1
    )


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 176) -> codes 0 ... 31 (n, 256), scales d * scale and offsets -dmin * minimum (n, 8)."""
    codes, high = nibbles(blocks, 48, 32).reshape(-1, 8, 32), np.ascontiguousarray(blocks[:, 16:48])
    for block in range(8):  # bit `block` of byte i is the fifth bit of element i of that block
        codes[:, block] |= (high // (1 << block) & 1) * np.uint8(16)
    return codes.reshape(-1, 256), *k_scales_and_offsets(blocks)


FORMAT = QuantFormat(
    GGMLQuantizationType.Q5_K,
    split,
    unpack,
    quant_words=4,
    scale_words=13,
    record=256,
    half_positions=(0, 2),
    largest_code=400,
)

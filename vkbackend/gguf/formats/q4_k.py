"""Q4_K: 256 codes of 4 bits, a 6-bit scale and minimum for every 32."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import k_scales, k_scales_and_offsets, nibbles, nibbles_by_block, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 144) -> codes (rows, blocks, 8, 4) and scales (rows, blocks, 5), uint32.

    A block: halves d and dmin, 12 bytes of 8 scales and 8 minimums, 128 bytes of two codes each.
    """
    scales = np.ascontiguousarray(k_scales(blocks[..., 4:16])).reshape(*blocks.shape[:2], 16)
    return words(nibbles_by_block(blocks[..., 16:])), np.concatenate([words(blocks[..., :4]), words(scales)], axis=-1)


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 144) -> codes 0 ... 15 (n, 256), scales d * scale and offsets -dmin * minimum (n, 8)."""
    return nibbles(blocks, 16, 32), *k_scales_and_offsets(blocks)


FORMAT = QuantFormat(
    GGMLQuantizationType.Q4_K,
    split,
    unpack,
    quant_words=4,
    scale_words=5,
    record=256,
    half_positions=(0, 2),
    largest_code=400,
)

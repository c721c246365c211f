"""Q4_K: 256 codes of 4 bits, a 6-bit scale and minimum for every 32."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import k_scales, k_scales_and_offsets, nibbles, nibbles_by_block, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    scales = np.ascontiguousarray(k_scales(blocks[..., 4:16])).reshape(*blocks.shape[:2], 16)
    return words(nibbles_by_block(blocks[..., 16:])), np.concatenate([words(blocks[..., :4]), words(scales)], axis=-1)


def unpack(blocks: np.ndarray) -> Unpacked:
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

"""TQ2_0: 256 codes of two bits for -1, 0 and 1, one half scale. Devices hold it as Q2_K."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import bit_pairs, bit_pairs_by_block, half, halves, signed, ternary_scales, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 66) -> codes (rows, blocks, 16) and scales (rows, blocks, 5), uint32.

    A block: 64 bytes of codes in Q2_K's order, half d.
    """
    codes = bit_pairs_by_block(blocks[..., :64]).reshape(*blocks.shape[:2], 64)
    return words(codes), ternary_scales(half(blocks, 64))


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 66) -> codes -1 ... 2 (n, 256) and scales d (n, 1)."""
    return signed(bit_pairs(blocks, 0).reshape(-1, 256), 1), halves(blocks, 64), None


FORMAT = QuantFormat(
    GGMLQuantizationType.TQ2_0,
    split,
    unpack,
    quant_words=2,
    scale_words=5,
    record=256,
    half_positions=(64,),
    largest_code=2,
    shader="q2_k",
)

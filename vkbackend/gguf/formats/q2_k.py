"""Q2_K: 256 codes of 2 bits, a 4-bit scale and minimum for every 16."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import bit_pairs, bit_pairs_by_block, halves, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 84) -> codes (rows, blocks, 8, 2) and scales (rows, blocks, 5), uint32.

    A block: 16 bytes of a scale (low 4 bits) and a minimum, 64 bytes of codes, halves d and dmin.
    """
    return words(bit_pairs_by_block(blocks[..., 16:80])), np.concatenate(
        [words(blocks[..., 80:84]), words(blocks[..., :16])], axis=-1
    )


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 84) -> codes 0 ... 3 (n, 256), scales d * scale and offsets -dmin * minimum (n, 16)."""
    scales, d = blocks[:, :16], halves(blocks, 80, 2)
    return bit_pairs(blocks, 16).reshape(-1, 256), d[:, :1] * (scales & 15), -(d[:, 1:] * (scales >> 4))


FORMAT = QuantFormat(
    GGMLQuantizationType.Q2_K,
    split,
    unpack,
    quant_words=2,
    scale_words=5,
    record=256,
    half_positions=(80, 82),
    largest_code=20,
)

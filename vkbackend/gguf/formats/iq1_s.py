"""IQ1_S: 11-bit indices into a table of eight of -1, 0 and 1; for every 32 a 3-bit scale and 1/8 more or less."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import fields, halves, shorts, words
from ..grids import entries, grid_format, half_word
from ..quant_format import Planes, Unpacked

TYPE = GGMLQuantizationType.IQ1_S


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 50) -> codes (rows, blocks, 8) and scales (rows, blocks, 5), uint32.

    A block: half d, 32 bytes of low bits of the indices, and for every 32 elements 16 bits: 4 x 3 high bits of the
    indices, 3 of the scale, and the sign of the eighth.
    """
    return words(blocks[..., 2:34]), np.concatenate([half_word(blocks), words(blocks[..., 34:])], axis=-1)


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 50) -> codes -9 ... 9 (n, 256), in eighths, and scales d * (2 scale + 1) / 8 (n, 8)."""
    high = shorts(blocks, 34, 8)
    values = entries(TYPE, blocks[:, 2:34] | fields(high, 3, 4) << 8).reshape(-1, 8, 32)
    codes = 8 * values + np.where(high & 0x8000, np.int8(-1), np.int8(1))[..., None]
    scales = halves(blocks, 0) * (2 * (high >> 12 & 7) + 1).astype(np.float32) * np.float32(0.125)
    return codes.reshape(-1, 256), scales, None


FORMAT = grid_format(TYPE, split, unpack, quant_words=1, scale_words=5, largest_code=10)

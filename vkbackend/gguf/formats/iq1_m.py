"""IQ1_M: 11-bit indices into IQ1_S's table, each with 1/8 more or less; a 3-bit scale for every 16."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import fields, shorts, words
from ..grids import entries, grid_format
from ..quant_format import Planes, Unpacked

TYPE = GGMLQuantizationType.IQ1_M


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 56) -> codes (rows, blocks, 8) and scales (rows, blocks, 6), uint32.

    A block: 32 bytes of low bits of the indices; for each four bits, three high bits and the sign of the eighth; four
    times 16 bits, of which 12 are four scales and the highest four a quarter of the half d.
    """
    return words(blocks[..., :32]), np.concatenate([words(blocks[..., 48:]), words(blocks[..., 32:48])], axis=-1)


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 56) -> codes -9 ... 9 (n, 256), in eighths, and scales d * (2 scale + 1) / 8 (n, 16)."""
    high, packed = fields(blocks[:, 32:48], 4, 2), shorts(blocks, 48, 4)
    values = entries(TYPE, blocks[:, :32] | (high & 7).astype(np.uint16) << 8)
    codes = 8 * values + np.where(high & 8, np.int8(-1), np.int8(1))[..., None]
    quarters = packed >> 12 << np.array([0, 4, 8, 12], np.uint16)
    d = np.bitwise_or.reduce(quarters, axis=1, keepdims=True).view(np.float16).astype(np.float32)
    return codes.reshape(-1, 256), d * (2 * fields(packed, 3, 4) + 1).astype(np.float32) * np.float32(0.125), None


def put_scales(blocks: np.ndarray, scales: np.ndarray) -> None:
    """Store `scales` as the halves of blocks (..., 56)."""
    bits = scales.astype(np.float16).view(np.uint16)
    for at in range(4):
        quarter = (bits >> 4 * at & 15).astype(np.uint8)
        blocks[..., 49 + 2 * at] = blocks[..., 49 + 2 * at] & 15 | quarter << 4


FORMAT = grid_format(TYPE, split, unpack, quant_words=1, scale_words=6, largest_code=10, put_scales=put_scales)

"""IQ2_XS: 9-bit indices into a table of eight magnitudes, seven bits of signs for each, a 4-bit scale for every 16."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import fields, halves, shorts, words
from ..grids import EVEN_SIGNS, entries, grid_format, half_word
from ..quant_format import Planes, Unpacked

TYPE = GGMLQuantizationType.IQ2_XS


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 74) -> codes (rows, blocks, 16) and scales (rows, blocks, 3), uint32.

    A block: half d, 32 numbers of 9 bits of index and 7 of signs, 8 bytes of two scales each.
    """
    return words(blocks[..., 2:66]), np.concatenate([half_word(blocks), words(blocks[..., 66:])], axis=-1)


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 74) -> codes -43 ... 43 (n, 256) and scales d * (scale + 1/2) / 4 (n, 16)."""
    packed = shorts(blocks, 2, 32)
    codes = entries(TYPE, packed & 511) * EVEN_SIGNS[packed >> 9]
    scales = np.float32(0.5) + fields(blocks[:, 66:], 4, 2).astype(np.float32)
    return codes.reshape(-1, 256), halves(blocks, 0) * scales * np.float32(0.25), None


FORMAT = grid_format(TYPE, split, unpack, quant_words=2, scale_words=3, largest_code=100)

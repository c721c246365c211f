"""IQ2_XXS: 8-bit indices into a table of eight magnitudes, seven bits of signs for each, a 4-bit scale for every 32."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import halves, longs, words
from ..grids import EVEN_SIGNS, entries, grid_format, half_word, sevens
from ..quant_format import Planes, Unpacked

TYPE = GGMLQuantizationType.IQ2_XXS


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 66) -> codes (rows, blocks, 16) and scales (rows, blocks, 1), uint32.

    A block: half d; for every 32 elements four indices, then a word of 4 x 7 bits of signs and 4 of the scale.
    """
    return words(blocks[..., 2:]), half_word(blocks)


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 66) -> codes -43 ... 43 (n, 256) and scales d * (scale + 1/2) / 4 (n, 8)."""
    high = longs(blocks, 2, 16)[:, 1::2]
    indices = np.ascontiguousarray(blocks[:, 2:]).reshape(-1, 8, 8)[:, :, :4]
    codes = entries(TYPE, indices) * EVEN_SIGNS[sevens(high)]
    scales = halves(blocks, 0) * (np.float32(0.5) + (high >> 28).astype(np.float32)) * np.float32(0.25)
    return codes.reshape(-1, 256), scales, None


FORMAT = grid_format(TYPE, split, unpack, quant_words=2, scale_words=1, largest_code=100)

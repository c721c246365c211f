"""IQ3_XXS: 8-bit indices into a table of four magnitudes, seven bits of signs for every 8, a 4-bit scale for 32."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import halves, longs, words
from ..grids import EVEN_SIGNS, entries, grid_format, half_word, sevens
from ..quant_format import Planes, Unpacked

TYPE = GGMLQuantizationType.IQ3_XXS


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 98) -> codes (rows, blocks, 16) and scales (rows, blocks, 9), uint32.

    A block: half d, 64 indices, 8 words of 4 x 7 bits of signs and 4 of a scale.
    """
    return words(blocks[..., 2:66]), np.concatenate([half_word(blocks), words(blocks[..., 66:])], axis=-1)


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 98) -> codes -62 ... 62 (n, 256) and scales d * (scale + 1/2) / 2 (n, 8)."""
    packed = longs(blocks, 66, 8)
    codes = entries(TYPE, blocks[:, 2:66]).reshape(-1, 8, 4, 8) * EVEN_SIGNS[sevens(packed)]
    scales = halves(blocks, 0) * (np.float32(0.5) + (packed >> 28).astype(np.float32)) * np.float32(0.5)
    return codes.reshape(-1, 256), scales, None


FORMAT = grid_format(TYPE, split, unpack, quant_words=2, scale_words=9, largest_code=300)

"""IQ3_S: 9-bit indices into a table of four magnitudes, a bit of sign for each, a 4-bit scale for every 32."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import fields, halves, words
from ..grids import SIGNS, entries, grid_format, half_word
from ..quant_format import Planes, Unpacked

TYPE = GGMLQuantizationType.IQ3_S


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 110) -> codes (rows, blocks, 16) and scales (rows, blocks, 12), uint32.

    A block: half d, 64 bytes of low bits of the indices, 8 of their high bits, 32 of signs, 4 of two scales each.
    """
    return words(blocks[..., 2:66]), np.concatenate(
        [half_word(blocks), words(blocks[..., 106:]), words(blocks[..., 66:106])], axis=-1
    )


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 110) -> codes -15 ... 15 (n, 256) and scales d * (2 scale + 1) (n, 8)."""
    indices = blocks[:, 2:66] | fields(blocks[:, 66:74], 1, 8).astype(np.uint16) << 8
    codes = entries(TYPE, indices).reshape(-1, 32, 8) * SIGNS[blocks[:, 74:106]]
    scales = halves(blocks, 0) * (1 + 2 * fields(blocks[:, 106:], 4, 2)).astype(np.float32)
    return codes.reshape(-1, 256), scales, None


FORMAT = grid_format(TYPE, split, unpack, quant_words=2, scale_words=12, largest_code=300)

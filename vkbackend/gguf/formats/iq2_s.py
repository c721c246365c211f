"""IQ2_S: 10-bit indices into a table of eight magnitudes, a byte of signs for each, a 4-bit scale for every 16."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import fields, halves, words
from ..grids import SIGNS, entries, grid_format, half_word
from ..quant_format import Planes, Unpacked

TYPE = GGMLQuantizationType.IQ2_S


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 82) -> codes (rows, blocks, 8, 2) and scales (rows, blocks, 5), uint32.

    A block: half d, 32 bytes of low bits of the indices, 32 of signs, 8 of the high bits, 8 of two scales each.
    """
    codes = np.stack([words(blocks[..., 2:34]), words(blocks[..., 34:66])], axis=-1)
    return codes, np.concatenate([half_word(blocks), words(blocks[..., 66:])], axis=-1)


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 82) -> codes -43 ... 43 (n, 256) and scales d * (scale + 1/2) / 4 (n, 16)."""
    indices = blocks[:, 2:34] | fields(blocks[:, 66:74], 2, 4).astype(np.uint16) << 8
    codes = entries(TYPE, indices) * SIGNS[blocks[:, 34:66]]
    scales = np.float32(0.5) + fields(blocks[:, 74:], 4, 2).astype(np.float32)
    return codes.reshape(-1, 256), halves(blocks, 0) * scales * np.float32(0.25), None


FORMAT = grid_format(TYPE, split, unpack, quant_words=2, scale_words=5, largest_code=100)

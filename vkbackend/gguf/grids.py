"""What IQ1, IQ2 and IQ3 formats share: tables of four or eight values, of which a block stores indices, and signs.

The tables are those of ggml (iq2xxs_grid and so on in ggml-common.h), as the package gguf has them. For devices a table
has a word per entry: the bytes of four values, or eight digits that stand for three values.
"""

from functools import cache

import gguf.quants
import numpy as np
from gguf import GGMLQuantizationType

from .blocks import words

# Sign of element i, -1 or 1, for each byte of sign bits; where a byte is stored in seven bits, the eighth makes the
# number of set bits even.
SIGNS = 1 - 2 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.int8)
EVEN_SIGNS = SIGNS[[bits | (bits.bit_count() & 1) << 7 for bits in range(128)]]


@cache
def grid(kind: GGMLQuantizationType) -> np.ndarray:
    """The table of a format, int8 (entries, 4 or 8)."""
    quant = getattr(gguf.quants, kind.name)
    quant.init_grid()
    return np.ascontiguousarray(quant.grid[0, 0].astype(np.int8))


@cache
def device_table(kind: GGMLQuantizationType) -> np.ndarray:
    """The table as shaders/quant/iq_grid.glsl reads it, uint32 (entries,)."""
    values = grid(kind)
    if values.shape[1] == 4:
        return words(values.view(np.uint8))[:, 0]
    digits = np.searchsorted(np.unique(values), values).astype(np.uint8)
    return words(digits[:, :4] | digits[:, 4:] << 4)[:, 0]


def entries(kind: GGMLQuantizationType, indices: np.ndarray) -> np.ndarray:
    """The values of each index (n, ...), int8 (n, ..., 4 or 8)."""
    return np.take(grid(kind), indices, axis=0)


def sevens(packed: np.ndarray) -> np.ndarray:
    """The four numbers of seven bits in the low bits of each word, (n, ...) -> (n, ..., 4)."""
    return packed[..., None] >> np.array([0, 7, 14, 21], np.uint32) & 127


def shorts(blocks: np.ndarray, at: int, count: int) -> np.ndarray:
    """`count` uint16 of each block, beginning at byte `at`, (n, count)."""
    return np.ascontiguousarray(blocks[:, at : at + 2 * count]).view(np.uint16)


def longs(blocks: np.ndarray, at: int, count: int) -> np.ndarray:
    """`count` uint32 of each block, beginning at byte `at`, (n, count)."""
    return words(blocks[:, at : at + 4 * count])


def fields(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """`count` fields of `bits` bits of each number, the lowest first, (n, m) -> (n, m * count)."""
    shifts = np.arange(0, bits * count, bits, dtype=packed.dtype)
    found = packed[..., None] >> shifts & packed.dtype.type((1 << bits) - 1)
    return found.reshape(len(packed), -1)


def half_word(blocks: np.ndarray) -> np.ndarray:
    """The half at the start of each block, alone in a word, (rows, blocks, 1)."""
    return np.ascontiguousarray(blocks[..., :2]).view(np.uint16).astype(np.uint32)

"""What IQ1, IQ2 and IQ3 formats share: tables of four or eight values, of which a block stores indices, and signs.

The tables are those of ggml (iq2xxs_grid and so on in ggml-common.h), as the package gguf has them. For devices a table
has a word per entry: the bytes of four values, or eight digits that stand for three values.
"""

from collections.abc import Callable
from functools import cache

import gguf.quants
import numpy as np
from gguf import GGMLQuantizationType

from .blocks import half, words
from .quant_format import Planes, QuantFormat, Unpacked

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


def half_word(blocks: np.ndarray) -> np.ndarray:
    """The half at the start of each block, alone in a word, (rows, blocks, 1)."""
    return half(blocks, 0)[..., None]


def grid_format(
    kind: GGMLQuantizationType,
    split: Callable[[np.ndarray], Planes],
    unpack: Callable[[np.ndarray], Unpacked],
    *,
    quant_words: int,
    scale_words: int,
    largest_code: int,
    put_scales: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> QuantFormat:
    """A format of 256 elements a block, whose kernels are those of shaders/quant/iq_grid.glsl."""
    return QuantFormat(
        kind,
        split,
        unpack,
        quant_words=quant_words,
        scale_words=scale_words,
        record=256,
        put_scales=put_scales,
        largest_code=largest_code,
        shader="iq_grid",
        constants={"GRID": kind.value},
        table=lambda: device_table(kind),
    )

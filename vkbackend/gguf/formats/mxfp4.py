"""MXFP4: 32 codes of 4 bits (E2M1 floats), a power of two as their scale (E8M0).

Format: OCP Microscaling Formats (MX) Specification 1.0. Codes stand for twice their value here, which is an integer,
so the scale is half of E8M0's.
"""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import looked_up, nibbles, words
from ..quant_format import Planes, QuantFormat, Unpacked

VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)

SLAB = 1 << 15  # blocks that `reordered` takes at a time: they fit the cache


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 17) -> codes (rows, blocks, 4) and scales (rows, ceil(blocks / 4)), uint32.

    A block: the exponent of its scale, 16 bytes of two codes each. A word of scales has the exponents of four blocks.
    """
    exponents = np.pad(blocks[..., 0], ((0, 0), (0, -blocks.shape[1] % 4)))
    return words(blocks[..., 1:]), words(exponents)


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 17) -> codes -12 ... 12 (n, 32) and scales 2^(exponent - 128) (n, 1)."""
    exponents = blocks[:, :1].astype(np.uint32)
    # Below 2 the scale is a subnormal number.
    bits = np.where(exponents < 2, np.uint32(0x00200000) << exponents, (exponents - np.uint32(1)) << np.uint32(23))
    return looked_up(VALUES, nibbles(blocks, 1, 16)), bits.view(np.float32), None


def reordered(raw: np.ndarray) -> np.ndarray:
    """A tensor uint8 (bytes) whose byte k of a block has elements 2k and 2k + 1 -> a read-only copy in ggml's order, in
    which byte k has elements k and k + 16.
    """
    blocks = raw.reshape(-1, 17)
    found = np.empty_like(blocks)
    for first in range(0, len(blocks), SLAB):
        some, out = blocks[first : first + SLAB], found[first : first + SLAB]
        out[:, 0] = some[:, 0]
        low, high = some[:, 1:9], some[:, 9:]  # elements 0-15 and 16-31
        out[:, 1::2] = (low & 15) | high << 4
        out[:, 2::2] = low >> 4 | (high & 0xF0)
    found.flags.writeable = False
    return found.reshape(-1)


def put_scales(blocks: np.ndarray, scales: np.ndarray) -> None:
    """Give blocks (..., 17) the largest scales that are not above the magnitudes of `scales`."""
    blocks[..., 0] = np.floor(np.log2(np.maximum(np.abs(scales), 1e-30))) + 128


FORMAT = QuantFormat(
    GGMLQuantizationType.MXFP4,
    split,
    unpack,
    quant_words=4,
    scale_words=1,
    record=128,
    put_scales=put_scales,
    largest_code=12,
)

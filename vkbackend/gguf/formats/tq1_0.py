"""TQ1_0: 256 digits -1, 0 and 1, five to a byte in base 3, one half scale. Devices hold it as Q2_K."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import half, halves, signed, ternary_scales, words
from ..quant_format import Planes, QuantFormat, Unpacked

POWERS = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]


def digits(blocks: np.ndarray) -> np.ndarray:
    """uint8 (n, 54) -> digits 0 ... 2, uint8 (n, 256).

    A block: 32 and 16 bytes of five digits, 4 bytes of four, half d. The first digits of a run of bytes come first. A
    byte is the digits' fraction of 243, times 256, rounded up; its product with a power of three drops those before.
    """
    runs = [(0, 32, 5), (32, 48, 5), (48, 52, 4)]
    shifted = [(blocks[:, None, first:end] * POWERS[:count]).reshape(len(blocks), -1) for first, end, count in runs]
    return (np.concatenate(shifted, axis=1).astype(np.uint16) * 3 >> 8).astype(np.uint8)


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 54) -> codes (rows, blocks, 16) and scales (rows, blocks, 5), uint32."""
    fours = digits(blocks.reshape(-1, 54)).reshape(*blocks.shape[:2], 8, 4, 8)  # (..., block, n, 4u + c)
    codes = np.bitwise_or.reduce(fours << np.arange(0, 8, 2, dtype=np.uint8)[:, None], axis=-2)
    return words(codes.reshape(*blocks.shape[:2], 64)), ternary_scales(half(blocks, 52))


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 54) -> codes -1 ... 1 (n, 256) and scales d (n, 1)."""
    return signed(digits(blocks), 1), halves(blocks, 52), None


FORMAT = QuantFormat(
    GGMLQuantizationType.TQ1_0,
    split,
    unpack,
    quant_words=2,
    scale_words=5,
    record=256,
    half_positions=(52,),
    largest_code=1,
    shader="q2_k",
)

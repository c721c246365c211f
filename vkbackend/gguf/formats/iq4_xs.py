"""IQ4_XS: 256 codes of 4 bits that stand for 16 values (`blocks.IQ4_VALUES`), a 6-bit scale for every 32."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import IQ4_VALUES, fields, halves, looked_up, nibbles, shorts, signed, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 136) -> codes (rows, blocks, 8, 4) and scales (rows, blocks, 2), uint32.

    A block: half d, 16 bits with the high two of each scale, 4 bytes with the low four, 128 bytes of two codes each,
    16 for every 32 elements in q4_0's order.
    """
    return words(blocks[..., 8:]), words(blocks[..., :8])


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 136) -> codes -127 ... 113 (n, 256) and scales d * scale (n, 8)."""
    high, low = fields(shorts(blocks, 2, 1), 2, 8), fields(blocks[:, 4:8], 4, 2)
    scales = signed(low | high.astype(np.uint8) << 4, 32)
    return looked_up(IQ4_VALUES, nibbles(blocks, 8, 16)), halves(blocks, 0) * scales, None


FORMAT = QuantFormat(
    GGMLQuantizationType.IQ4_XS,
    split,
    unpack,
    quant_words=4,
    scale_words=2,
    record=256,
    largest_code=2000,
    shader="iq4",
    constants={"IS_XS": True},
)

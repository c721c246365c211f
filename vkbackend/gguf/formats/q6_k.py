"""Q6_K: 256 codes of 6 bits, a signed 8-bit scale for every 16."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import half, halves, nibbles, signed, words
from ..quant_format import Planes, QuantFormat, Unpacked


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 210) -> codes (rows, blocks, 8, 4) and scales (rows, blocks, 21), uint32.

    A block: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 signed bytes of scales, half d.
    """
    low = blocks[..., :128].reshape(*blocks.shape[:2], 2, 2, 32)
    high = blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 1, 32)
    # ggml: in each half of 128, elements 0-31 and 32-63 are the low nibbles of its two chunks, 64-95 and 96-127 the
    # high ones.
    low = np.concatenate([low & 15, low >> 4], axis=-2).reshape(*blocks.shape[:2], 8, 32)
    # As in fifth_word: the two high bits of element 16h + 4w + c of a block go to bits 4(2c + h) + 2(w % 2) of word
    # w / 2.
    high = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=-2).reshape(
        *blocks.shape[:2], 8, 2, 2, 2, 4
    )  # (..., h, w / 2, w % 2, c)
    pairs = (
        high[..., 0, :, 0, :] | high[..., 0, :, 1, :] << 2 | high[..., 1, :, 0, :] << 4 | high[..., 1, :, 1, :] << 6
    )  # (..., 2 words, 4 bytes)
    d = half(blocks, 208)[..., None]
    scales = np.concatenate([d, words(blocks[..., 192:208]), words(pairs.reshape(*blocks.shape[:2], 64))], axis=-1)
    return words(low[..., :16] | low[..., 16:] << 4), scales


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 210) -> codes -32 ... 31 (n, 256) and scales d * scale (n, 16)."""
    codes = nibbles(blocks[:, :128], 0, 64).reshape(-1, 2, 4, 32)  # halves of 128 elements, quarters of those
    high = np.ascontiguousarray(blocks[:, 128:192]).reshape(-1, 2, 32)
    for quarter in range(4):
        codes[:, :, quarter] |= (high // (1 << 2 * quarter) & 3) * np.uint8(16)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return signed(codes.reshape(-1, 256), 32), halves(blocks, 208) * scales, None


FORMAT = QuantFormat(
    GGMLQuantizationType.Q6_K,
    split,
    unpack,
    quant_words=4,
    scale_words=21,
    record=256,
    half_positions=(208,),
    largest_code=400,
)

"""Q3_K: 256 codes of 3 bits, a signed 6-bit scale for every 16."""

import numpy as np
from gguf import GGMLQuantizationType

from ..blocks import bit_pairs, bit_pairs_by_block, half, halves, signed, words
from ..quant_format import Planes, QuantFormat, Unpacked


def q3_k_scales(packed: np.ndarray) -> np.ndarray:
    """Q3_K's 12 bytes of six-bit scales, stored with 32 added -> (..., 16) int8, one for every 16 elements."""
    low, high = packed[..., :8], packed[..., 8:]
    low = np.concatenate([low & 15, low >> 4], axis=-1)
    high = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1)
    return signed(low | high << 4, 32)


def split(blocks: np.ndarray) -> Planes:
    """uint8 (rows, blocks, 110) -> codes (rows, blocks, 8, 2) and scales (rows, blocks, 13), uint32.

    A block: 32 bytes of third bits, 64 bytes of the codes' low bits, 12 bytes of scales, half d.
    """
    # The third bit of element 4j + c of block i is bit i of byte 4j + c. It goes to bit 8c + j of the block's word.
    third = np.unpackbits(
        np.ascontiguousarray(blocks[..., :32]).reshape(*blocks.shape[:2], 8, 4, 1), axis=-1, bitorder="little"
    )  # (..., j, c, i)
    third = words(np.packbits(third.transpose(0, 1, 4, 3, 2), axis=-1, bitorder="little")[..., 0])[..., 0]
    scales = words(q3_k_scales(blocks[..., 96:108]).view(np.uint8))
    return words(bit_pairs_by_block(blocks[..., 32:96])), np.concatenate(
        [half(blocks, 108)[..., None], scales, third], axis=-1
    )


def unpack(blocks: np.ndarray) -> Unpacked:
    """uint8 (n, 110) -> codes -4 ... 3 (n, 256) and scales d * scale (n, 16)."""
    codes, high = bit_pairs(blocks, 32).reshape(-1, 8, 32), np.ascontiguousarray(blocks[:, :32])
    for block in range(8):  # bit `block` of byte i is the third bit of element i of that block
        codes[:, block] |= (high // (1 << block) & 1) * np.uint8(4)
    return signed(codes.reshape(-1, 256), 4), halves(blocks, 108) * q3_k_scales(blocks[:, 96:108]), None


FORMAT = QuantFormat(
    GGMLQuantizationType.Q3_K,
    split,
    unpack,
    quant_words=2,
    scale_words=13,
    record=256,
    half_positions=(108,),
    largest_code=60,
)

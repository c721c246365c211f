"""Pieces from which the formats in formats/ are written: how codes and scales of quantized blocks are taken apart
and packed.

Unpacking: blocks uint8 (n, type_size). Packing: blocks uint8 (rows, blocks, type_size). Block layouts: ggml-common.h
of ggml.
"""

import numpy as np

# Unpacking, for the numpy reference


def halves(blocks: np.ndarray, at: int, count: int = 1) -> np.ndarray:
    """The `count` half floats from byte `at` of each block on -> f32 (n, count)."""
    return np.ascontiguousarray(blocks[:, at : at + 2 * count]).view(np.float16).astype(np.float32)


def nibbles(blocks: np.ndarray, first: int, run: int) -> np.ndarray:
    """Bytes `first` ... of each block, in runs of `run`: the low nibbles of a run, then its high ones -> uint8 (n, 2
    * bytes).
    """
    some = np.ascontiguousarray(blocks[:, first:])
    whole_run = np.dtype(f"V{run}")  # moved as one item: byte by byte takes ten times as long
    codes = np.empty((some.size // run, 2), whole_run)
    codes[:, 0] = (some & 15).reshape(-1).view(whole_run)
    codes[:, 1] = (some // 16).reshape(-1).view(whole_run)  # as >> 4, which numpy does not vectorize
    return codes.view(np.uint8).reshape(len(some), -1)


def fifth_bits(blocks: np.ndarray, first: int) -> np.ndarray:
    """Bit i of the 32 bits from byte `first` on, as 16 where it is set -> uint8 (n, 32)."""
    return np.unpackbits(np.ascontiguousarray(blocks[:, first : first + 4]), axis=1, bitorder="little") * np.uint8(16)


def signed(codes: np.ndarray, zero: int) -> np.ndarray:
    """Codes of which `zero` stands for 0 -> int8."""
    return (codes - np.uint8(zero)).view(np.int8)


def bit_pairs(blocks: np.ndarray, first: int) -> np.ndarray:
    """The 64 bytes from byte `first` on, in runs of 32: the lowest two bits of a run, then the next ones -> uint8
    (n, 2, 4, 32).
    """
    some = np.ascontiguousarray(blocks[:, first : first + 64]).reshape(-1, 2, 32)
    codes = np.empty((len(some), 2, 4, 32), np.uint8)
    for at in range(4):
        codes[:, :, at] = some // (1 << 2 * at) & 3
    return codes


def k_scales(packed: np.ndarray) -> np.ndarray:
    """Q4_K's and Q5_K's 12 bytes of six-bit scales and minimums -> (..., 8, 2) uint8: (sc, m) of each block of 32."""
    sc, m, high = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    return np.stack(
        [
            np.concatenate([sc & 63, (high & 15) | (sc >> 6) << 4], axis=-1),
            np.concatenate([m & 63, (high >> 4) | (m >> 6) << 4], axis=-1),
        ],
        axis=-1,
    )


def k_scales_and_offsets(blocks):
    scales = halves(blocks, 0, 2)[:, None] * k_scales(blocks[:, 4:16])  # (n, 8, 2): d * sc, dmin * m
    return scales[..., 0], -scales[..., 1]


# Packing, for devices


def words(array: np.ndarray) -> np.ndarray:
    """The last axis' bytes as uint32."""
    return np.ascontiguousarray(array).view(np.uint32)


def half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The 16 bits at byte `at` of each block, uint32 (rows, blocks)."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.uint16)[..., 0].astype(np.uint32)


def paired(halves: np.ndarray) -> np.ndarray:
    """(rows, blocks) -> (rows, ceil(blocks/2)): even block low, odd block high."""
    if halves.shape[1] % 2:
        halves = np.concatenate([halves, np.zeros_like(halves[:, :1])], axis=1)
    return halves[:, 0::2] | halves[:, 1::2] << 16


def each_bit(bytes_: np.ndarray) -> np.ndarray:
    """uint8 (..., 4) -> (..., 32) of 0/1: element i is bit i."""
    return np.unpackbits(np.ascontiguousarray(bytes_), axis=-1, bitorder="little")


def fifth_word(bits: np.ndarray) -> np.ndarray:
    """(..., 32) of 0/1, one per element of a block -> uint32 (...). The nibble of element 16h + 4w + c is number 2c
    + h of the block's word w; its fifth bit goes to bit 4(2c + h) + w, from where one shift for all puts it above
    its nibble.
    """
    shape = bits.shape[:-1]
    return words(
        np.packbits(
            bits.reshape(*shape, 2, 4, 4).transpose(*range(len(shape)), -1, -3, -2).reshape(*shape, 32),
            axis=-1,
            bitorder="little",
        )
    )[..., 0]


def split_plain(blocks):
    return words(blocks.reshape(len(blocks), -1)), None


def nibbles_by_block(qs: np.ndarray) -> np.ndarray:
    """ggml's K order (64 elements in 32 bytes: low nibbles the first 32, high the next) -> blocks of 16 bytes in
    q4_0's order.

    qs (..., 32 * n) uint8 -> (..., 2 * n, 16) uint8
    """
    chunks = qs.reshape(*qs.shape[:-1], -1, 32)
    low, high = chunks & 15, chunks >> 4
    blocks = np.stack([low, high], axis=-2)  # (..., chunk, 2, 32): the elements of two blocks
    return (blocks[..., :16] | blocks[..., 16:] << 4).reshape(*qs.shape[:-1], -1, 16)


def bit_pairs_by_block(qs: np.ndarray) -> np.ndarray:
    """ggml's two-bit order (128 elements in 32 bytes: the lowest bits of all are the first 32) -> blocks of 8 bytes,
    whose bits 2n of byte c of word u are element 8n + 4u + c.

    qs (..., 64) uint8 -> (..., 8, 8) uint8
    """
    shape = qs.shape[:-1]
    chunks = qs.reshape(*shape, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3  # (..., chunk, block, 32)
    eights = chunks.reshape(*shape, 8, 4, 8)  # (..., block, n, 4u + c)
    return eights[..., 0, :] | eights[..., 1, :] << 2 | eights[..., 2, :] << 4 | eights[..., 3, :] << 6

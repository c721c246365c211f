"""Building blocks for the formats in formats/: functions that take the codes and scales of quantized blocks apart, and
pack them for devices.

Unpacking: blocks are uint8 (n, type_size). Packing: blocks are uint8 (rows, blocks, type_size). Block layouts: see
ggml-common.h of ggml.
"""

import numpy as np

# The values of IQ4_NL's and IQ4_XS's codes (kvalues_iq4nl of ggml).
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)

# Unpacking, for the numpy reference


def halves(blocks: np.ndarray, at: int, count: int = 1) -> np.ndarray:
    """`count` half floats of each block, beginning at byte `at` -> f32 (n, count)."""
    return np.ascontiguousarray(blocks[:, at : at + 2 * count]).view(np.float16).astype(np.float32)


def nibbles(blocks: np.ndarray, first: int, run: int) -> np.ndarray:
    """The nibbles of each block from byte `first` on, in runs of `run` bytes: the low nibbles of a run, then its high
    ones -> uint8 (n, 2 * bytes).
    """
    some = np.ascontiguousarray(blocks[:, first:])
    whole_run = np.dtype(f"V{run}")  # copied as one item, which is ten times as fast as by bytes
    codes = np.empty((some.size // run, 2), whole_run)
    codes[:, 0] = (some & 15).reshape(-1).view(whole_run)
    codes[:, 1] = (some // 16).reshape(-1).view(whole_run)  # the same as >> 4, which numpy does not vectorize
    return codes.view(np.uint8).reshape(len(some), -1)


def looked_up(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """values[codes], of the shape of `codes`, which are uint8. Codes past the end wrap around."""
    return np.take(values, codes, mode="wrap")


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


def fifth_bits(blocks: np.ndarray, first: int) -> np.ndarray:
    """The 32 bits from byte `first` on, 16 for each bit that is set -> uint8 (n, 32)."""
    return np.unpackbits(np.ascontiguousarray(blocks[:, first : first + 4]), axis=1, bitorder="little") * np.uint8(16)


def signed(codes: np.ndarray, zero: int) -> np.ndarray:
    """Codes minus `zero` -> int8."""
    return (codes - np.uint8(zero)).view(np.int8)


def bit_pairs(blocks: np.ndarray, first: int) -> np.ndarray:
    """The pairs of bits of 64 bytes from byte `first` on, in runs of 32 bytes: the lowest pair of each byte of a run,
    then the next ones -> uint8 (n, 2, 4, 32).
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


def k_scales_and_offsets(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and offsets of Q4_K and Q5_K, f32 (n, 8) each."""
    scales = halves(blocks, 0, 2)[:, None] * k_scales(blocks[:, 4:16])  # (n, 8, 2): d * sc, dmin * m
    return scales[..., 0], -scales[..., 1]


# Packing, for devices


def words(array: np.ndarray) -> np.ndarray:
    """The bytes of the last axis as uint32."""
    return np.ascontiguousarray(array).view(np.uint32)


def half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The 16 bits at byte `at` of each block, uint32 (rows, blocks)."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.uint16)[..., 0].astype(np.uint32)


def paired(halves: np.ndarray) -> np.ndarray:
    """(rows, blocks) -> (rows, ceil(blocks / 2)): even blocks are the low halves, odd ones the high halves."""
    if halves.shape[1] % 2:
        halves = np.concatenate([halves, np.zeros_like(halves[:, :1])], axis=1)
    return halves[:, 0::2] | halves[:, 1::2] << 16


def each_bit(bytes_: np.ndarray) -> np.ndarray:
    """uint8 (..., 4) -> (..., 32) of 0/1: element i is bit i."""
    return np.unpackbits(np.ascontiguousarray(bytes_), axis=-1, bitorder="little")


def fifth_word(bits: np.ndarray) -> np.ndarray:
    """(..., 32) of 0/1, one per element of a block -> uint32 (...).

    The nibble of element 16h + 4w + c is number 2c + h of the block's word w. Its fifth bit goes to bit 4(2c + h) + w,
    so that a single shift moves the fifth bits of a whole word above their nibbles.
    """
    shape = bits.shape[:-1]
    return words(
        np.packbits(
            bits.reshape(*shape, 2, 4, 4).transpose(*range(len(shape)), -1, -3, -2).reshape(*shape, 32),
            axis=-1,
            bitorder="little",
        )
    )[..., 0]


def split_plain(blocks: np.ndarray) -> tuple[np.ndarray, None]:
    """`QuantFormat.split` of formats without scales."""
    return words(blocks.reshape(len(blocks), -1)), None


def nibbles_by_block(qs: np.ndarray) -> np.ndarray:
    """ggml's K order (64 elements in 32 bytes: the low nibbles are the first 32, the high ones the next) -> blocks of
    16 bytes in q4_0's order.

    qs (..., 32 * n) uint8 -> (..., 2 * n, 16) uint8
    """
    chunks = qs.reshape(*qs.shape[:-1], -1, 32)
    low, high = chunks & 15, chunks >> 4
    blocks = np.stack([low, high], axis=-2)  # (..., chunk, 2, 32): the elements of two blocks
    return (blocks[..., :16] | blocks[..., 16:] << 4).reshape(*qs.shape[:-1], -1, 16)


def bit_pairs_by_block(qs: np.ndarray) -> np.ndarray:
    """ggml's two-bit order (128 elements in 32 bytes: the lowest pair of each byte are the first 32) -> blocks of 8
    bytes, in which pair n of byte c of word u is element 8n + 4u + c.

    qs (..., 64) uint8 -> (..., 8, 8) uint8
    """
    shape = qs.shape[:-1]
    chunks = qs.reshape(*shape, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3  # (..., chunk, block, 32)
    eights = chunks.reshape(*shape, 8, 4, 8)  # (..., block, n, 4u + c)
    return eights[..., 0, :] | eights[..., 1, :] << 2 | eights[..., 2, :] << 4 | eights[..., 3, :] << 6


def ternary_scales(d: np.ndarray) -> np.ndarray:
    """Q2_K's words of scales for elements d * (code - 1): d, uint32 (rows, blocks), as scale and as minimum of every 16
    elements -> (rows, blocks, 5).
    """
    return np.stack([d | d << 16, *[np.full_like(d, 0x11111111)] * 4], axis=-1)

"""Tensor formats: exact dequantization for the twins (`dequantize.py`), and packing into the device layout.

In: a tensor's rows as in the file, uint8 (rows, row_bytes). Out: f32 (rows, K), or the two planes of
docs/architecture.md ("Packed device layout"). A format is one row of FORMATS.
Block layouts: ggml-common.h of ggml; gguf.quants is the oracle in tests.
"""

from dataclasses import dataclass
from typing import Callable

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from .dequantize import UNPACK, dequantize, k_scales, q3_k_scales

GROUP = 64   # rows per group, as in shaders/quant/planes.glsl: a lane's neighbours read what lies beside it, and memory is read from end to end
BLOCK = 32   # elements per packed block


@dataclass(frozen=True)
class QuantFormat:
    """quant_words, scale_words: uint32 per row and block, or per row and `record` elements, in the two planes.

    split(blocks uint8 (n, type_size)) -> (quants uint32 (n, q), scales uint32 (n, s)): one row's records in plane order,
    where quants come in uvec4s; `pair_scales` formats store two blocks' half scales in one word (see `_pair`).
    """

    type: GGMLQuantizationType
    name: str
    record: int
    split: Callable
    scale_words: int

    @property
    def block_size(self) -> int:
        return GGML_QUANT_SIZES[self.type][0]

    @property
    def type_size(self) -> int:
        return GGML_QUANT_SIZES[self.type][1]

    @property
    def quant_words(self) -> int:
        return {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8, "q2_k": 2, "q3_k": 2}.get(self.name, 4)

    def dequantize(self, raw: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 (rows, row_bytes) -> f32 (rows, K), bit-exact to gguf's; into `out` where there is one, else into a new array."""
        rows, row_bytes = raw.shape
        if out is None:
            out = np.empty((rows, row_bytes // self.type_size * self.block_size), np.float32)
        dequantize(UNPACK[self.name], np.ascontiguousarray(raw).reshape(-1, self.type_size), out.reshape(-1, self.block_size))
        return out

    def packed_shape(self, rows: int, k: int) -> tuple[int, int]:
        """-> bytes of the quants plane and of the scales plane."""
        groups = -(-rows // GROUP)
        return groups * GROUP * (k // BLOCK) * self.quant_words * 4, groups * GROUP * -(-k // self.record) * self.scale_words * 4

    def pack(self, raw: np.ndarray, quants: np.ndarray, scales: np.ndarray) -> None:
        """Write both planes into uint8 arrays of `packed_shape`. Rows past the end of the last group become zero.

        Works in slabs of rows that stay in cache: the data is read and written once.
        """
        rows, row_bytes = raw.shape
        k = row_bytes // self.type_size * self.block_size
        groups, num_blocks, num_records = -(-rows // GROUP), k // BLOCK, -(-k // self.record)
        vectors = num_blocks * self.quant_words // 4  # uvec4s per row
        quant_view = quants.view(np.uint32).reshape(groups, vectors, GROUP, 4)
        scale_view = scales[:groups * GROUP * num_records * self.scale_words * 4].view(np.uint32).reshape(groups, num_records * self.scale_words, GROUP)
        slab = max(1, (1 << 20) // (row_bytes * GROUP)) * GROUP
        for first in range(0, rows, slab):
            part = raw[first:first + slab]
            if len(part) % GROUP:
                part = np.concatenate([part, np.zeros((-len(part) % GROUP, row_bytes), np.uint8)])
            some = slice(first // GROUP, (first + len(part)) // GROUP)
            q, s = self.split(part.reshape(len(part), -1, self.type_size))
            quant_view[some] = q.reshape(-1, GROUP, vectors, 4).transpose(0, 2, 1, 3)
            if self.scale_words:
                scale_view[some] = s.reshape(-1, GROUP, num_records * self.scale_words).transpose(0, 2, 1)


def _words(array: np.ndarray) -> np.ndarray:
    """The last axis' bytes as uint32."""
    return np.ascontiguousarray(array).view(np.uint32)


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The 16 bits at byte `at` of each block, uint32 (rows, blocks)."""
    return np.ascontiguousarray(blocks[..., at:at + 2]).view(np.uint16)[..., 0].astype(np.uint32)


def _pair(halves: np.ndarray) -> np.ndarray:
    """(rows, blocks) -> (rows, ceil(blocks/2)): even block low, odd block high."""
    if halves.shape[1] % 2:
        halves = np.concatenate([halves, np.zeros_like(halves[:, :1])], axis=1)
    return halves[:, 0::2] | halves[:, 1::2] << 16


def _each_bit(bytes_: np.ndarray) -> np.ndarray:
    """uint8 (..., 4) -> (..., 32) of 0/1: element i is bit i."""
    return np.unpackbits(np.ascontiguousarray(bytes_), axis=-1, bitorder="little")


def _fifth(bits: np.ndarray) -> np.ndarray:
    """(..., 32) of 0/1, one per element of a block -> uint32 (...). The nibble of element 16h + 4w + c is number 2c + h of the block's word w;
    its fifth bit goes to bit 4(2c + h) + w, from where one shift for all puts it above its nibble."""
    shape = bits.shape[:-1]
    return _words(np.packbits(bits.reshape(*shape, 2, 4, 4).transpose(*range(len(shape)), -1, -3, -2).reshape(*shape, 32), axis=-1, bitorder="little"))[..., 0]


def _split_plain(blocks):
    return _words(blocks.reshape(len(blocks), -1)), None


def _split_q8_0(blocks):
    return _words(blocks[..., 2:]) ^ np.uint32(0x80808080), _pair(_half(blocks, 0))


def _split_q4_0(blocks):
    return _words(blocks[..., 2:]), _pair(_half(blocks, 0))


def _split_q4_1(blocks):
    return _words(blocks[..., 4:]), _words(blocks[..., :4])


def _split_q5_0(blocks):
    fifth, d = _fifth(_each_bit(blocks[..., 2:6])), _half(blocks, 0)
    if fifth.shape[1] % 2:
        fifth = np.concatenate([fifth, np.zeros_like(fifth[:, :1])], axis=1)
    return _words(blocks[..., 6:]), np.stack([fifth[:, 0::2], fifth[:, 1::2], _pair(d)], axis=-1)


def _split_q5_1(blocks):
    return _words(blocks[..., 8:]), np.concatenate([_fifth(_each_bit(blocks[..., 4:8]))[..., None], _words(blocks[..., :4])], axis=-1)


def _nibbles(qs: np.ndarray) -> np.ndarray:
    """ggml's K order (64 elements in 32 bytes: low nibbles the first 32, high the next) -> blocks of 16 bytes in q4_0's order.

    qs (..., 32 * n) uint8 -> (..., 2 * n, 16) uint8
    """
    chunks = qs.reshape(*qs.shape[:-1], -1, 32)
    low, high = chunks & 15, chunks >> 4
    blocks = np.stack([low, high], axis=-2)  # (..., chunk, 2, 32): the elements of two blocks
    return (blocks[..., :16] | blocks[..., 16:] << 4).reshape(*qs.shape[:-1], -1, 16)


def _pairs(qs: np.ndarray) -> np.ndarray:
    """ggml's two-bit order (128 elements in 32 bytes: the lowest bits of all are the first 32) -> blocks of 8 bytes, whose bits 2n of byte c of
    word u are element 8n + 4u + c.

    qs (..., 64) uint8 -> (..., 8, 8) uint8
    """
    shape = qs.shape[:-1]
    chunks = qs.reshape(*shape, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3  # (..., chunk, block, 32)
    eights = chunks.reshape(*shape, 8, 4, 8)                                               # (..., block, n, 4u + c)
    return eights[..., 0, :] | eights[..., 1, :] << 2 | eights[..., 2, :] << 4 | eights[..., 3, :] << 6


def _split_q2_k(blocks):
    return _words(_pairs(blocks[..., 16:80])), np.concatenate([_words(blocks[..., 80:84]), _words(blocks[..., :16])], axis=-1)


def _split_q3_k(blocks):
    # The third bit of element 4j + c of block i is bit i of byte 4j + c; it goes to bit 8c + j of the block's word.
    third = np.unpackbits(np.ascontiguousarray(blocks[..., :32]).reshape(*blocks.shape[:2], 8, 4, 1), axis=-1, bitorder="little")  # (..., j, c, i)
    third = _words(np.packbits(third.transpose(0, 1, 4, 3, 2), axis=-1, bitorder="little")[..., 0])[..., 0]
    scales = _words(q3_k_scales(blocks[..., 96:108]).view(np.uint8))
    return _words(_pairs(blocks[..., 32:96])), np.concatenate([_half(blocks, 108)[..., None], scales, third], axis=-1)


def _split_q4_k(blocks):
    scales = np.ascontiguousarray(k_scales(blocks[..., 4:16])).reshape(*blocks.shape[:2], 16)
    return _words(_nibbles(blocks[..., 16:])), np.concatenate([_words(blocks[..., :4]), _words(scales)], axis=-1)


def _split_q5_k(blocks):
    scales = np.ascontiguousarray(k_scales(blocks[..., 4:16])).reshape(*blocks.shape[:2], 16)
    high = blocks[..., 16:48]
    fifth = np.stack([_fifth(high >> block & 1) for block in range(8)], axis=-1)
    return _words(_nibbles(blocks[..., 48:])), np.concatenate([_words(blocks[..., :4]), _words(scales), fifth], axis=-1)


def _split_q6_k(blocks):
    low, high = blocks[..., :128].reshape(*blocks.shape[:2], 2, 2, 32), blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 1, 32)
    # ggml: in each half of 128, elements 0-31 and 32-63 are the low nibbles of its two chunks, 64-95 and 96-127 the high ones.
    low = np.concatenate([low & 15, low >> 4], axis=-2).reshape(*blocks.shape[:2], 8, 32)
    # Element 16h + 4w + c of a block: its two high bits go to bits 4(2c + h) + 2(w % 2) of word w / 2, as in _fifth.
    high = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=-2).reshape(*blocks.shape[:2], 8, 2, 2, 2, 4)  # (..., h, w / 2, w % 2, c)
    pairs = high[..., 0, :, 0, :] | high[..., 0, :, 1, :] << 2 | high[..., 1, :, 0, :] << 4 | high[..., 1, :, 1, :] << 6  # (..., 2 words, 4 bytes)
    d = _half(blocks, 208)[..., None]
    scales = np.concatenate([d, _words(blocks[..., 192:208]), _words(pairs.reshape(*blocks.shape[:2], 64))], axis=-1)
    return _words(low[..., :16] | low[..., 16:] << 4), scales


_T = GGMLQuantizationType
FORMATS: dict[GGMLQuantizationType, QuantFormat] = {row.type: row for row in (
    QuantFormat(_T.F32, "f32", BLOCK, _split_plain, 0),
    QuantFormat(_T.F16, "f16", BLOCK, _split_plain, 0),
    QuantFormat(_T.BF16, "bf16", BLOCK, _split_plain, 0),
    QuantFormat(_T.Q4_0, "q4_0", 64, _split_q4_0, 1),
    QuantFormat(_T.Q4_1, "q4_1", BLOCK, _split_q4_1, 1),
    QuantFormat(_T.Q5_0, "q5_0", 64, _split_q5_0, 3),
    QuantFormat(_T.Q5_1, "q5_1", BLOCK, _split_q5_1, 2),
    QuantFormat(_T.Q8_0, "q8_0", 64, _split_q8_0, 1),
    QuantFormat(_T.Q2_K, "q2_k", 256, _split_q2_k, 5),
    QuantFormat(_T.Q3_K, "q3_k", 256, _split_q3_k, 13),
    QuantFormat(_T.Q4_K, "q4_k", 256, _split_q4_k, 5),
    QuantFormat(_T.Q5_K, "q5_k", 256, _split_q5_k, 13),
    QuantFormat(_T.Q6_K, "q6_k", 256, _split_q6_k, 21),
)}

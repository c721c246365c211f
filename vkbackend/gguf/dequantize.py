"""Quantized blocks -> f32, bit-exact to gguf's `dequantize` and several times as fast: slabs that stay in cache, one thread a core.

In: blocks as in the file, uint8 (n, type_size). A format is a function in UNPACK that takes them apart into codes, uint8 or int8
(n, block_size), scales and offsets, f32 (n, parts): element = code * scale + offset of its part of the block (None: without).
Block layouts: ggml-common.h of ggml.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Callable

import numpy as np

SLAB = 1 << 19  # elements: large enough that threads seldom meet at the interpreter's lock, small enough for the last cache


def dequantize(unpack: Callable, blocks: np.ndarray, out: np.ndarray) -> None:
    """uint8 (n, type_size) -> out, f32 (n, block_size)."""
    step = max(1, SLAB // out.shape[1])
    slabs = [slice(first, first + step) for first in range(0, len(blocks), step)]
    run = map if len(slabs) == 1 else _pool().map
    for _ in run(lambda slab: _slab(unpack, blocks[slab], out[slab]), slabs):  # raises what a thread raised
        pass


def _slab(unpack, blocks, out):
    codes, scales, offsets = unpack(blocks)
    if scales is None:
        out[...] = codes
        return
    parts = out.reshape(*scales.shape, -1)
    parts[...] = codes.reshape(parts.shape)
    with np.errstate(invalid="ignore"):  # scales of a damaged file may be no numbers
        parts *= scales[..., None]
        if offsets is not None:
            parts += offsets[..., None]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "dequantize")


def _halves(blocks: np.ndarray, at: int, count: int = 1) -> np.ndarray:
    """The `count` half floats from byte `at` of each block on -> f32 (n, count)."""
    return np.ascontiguousarray(blocks[:, at:at + 2 * count]).view(np.float16).astype(np.float32)


def _nibbles(blocks: np.ndarray, first: int, run: int) -> np.ndarray:
    """Bytes `first` ... of each block, in runs of `run`: the low nibbles of a run, then its high ones -> uint8 (n, 2 * bytes)."""
    some = np.ascontiguousarray(blocks[:, first:])
    whole_run = np.dtype(f"V{run}")  # moved as one item: byte by byte takes ten times as long
    codes = np.empty((some.size // run, 2), whole_run)
    codes[:, 0] = (some & 15).reshape(-1).view(whole_run)
    codes[:, 1] = (some // 16).reshape(-1).view(whole_run)  # as >> 4, which numpy does not vectorize
    return codes.view(np.uint8).reshape(len(some), -1)


def _fifth_bits(blocks: np.ndarray, first: int) -> np.ndarray:
    """Bit i of the 32 bits from byte `first` on, as 16 where it is set -> uint8 (n, 32)."""
    return np.unpackbits(np.ascontiguousarray(blocks[:, first:first + 4]), axis=1, bitorder="little") * np.uint8(16)


def _signed(codes: np.ndarray, zero: int) -> np.ndarray:
    """Codes of which `zero` stands for 0 -> int8."""
    return (codes - np.uint8(zero)).view(np.int8)


def _f32(blocks):
    return blocks.view(np.float32), None, None


def _f16(blocks):
    return blocks.view(np.float16), None, None


def _bf16(blocks):
    return (blocks.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32), None, None


def _q8_0(blocks):
    return blocks[:, 2:].view(np.int8), _halves(blocks, 0), None


def _q4_0(blocks):
    return _signed(_nibbles(blocks, 2, 16), 8), _halves(blocks, 0), None


def _q4_1(blocks):
    scale_and_offset = _halves(blocks, 0, 2)
    return _nibbles(blocks, 4, 16), scale_and_offset[:, :1], scale_and_offset[:, 1:]


def _q5_0(blocks):
    return _signed(_nibbles(blocks, 6, 16) | _fifth_bits(blocks, 2), 16), _halves(blocks, 0), None


def _q5_1(blocks):
    scale_and_offset = _halves(blocks, 0, 2)
    return _nibbles(blocks, 8, 16) | _fifth_bits(blocks, 4), scale_and_offset[:, :1], scale_and_offset[:, 1:]


def _pairs(blocks: np.ndarray, first: int) -> np.ndarray:
    """The 64 bytes from byte `first` on, in runs of 32: the lowest two bits of a run, then the next ones -> uint8 (n, 2, 4, 32)."""
    some = np.ascontiguousarray(blocks[:, first:first + 64]).reshape(-1, 2, 32)
    codes = np.empty((len(some), 2, 4, 32), np.uint8)
    for at in range(4):
        codes[:, :, at] = some // (1 << 2 * at) & 3
    return codes


def _q2_k(blocks):
    scales, d = blocks[:, :16], _halves(blocks, 80, 2)
    return _pairs(blocks, 16).reshape(-1, 256), d[:, :1] * (scales & 15), -(d[:, 1:] * (scales >> 4))


def q3_k_scales(packed: np.ndarray) -> np.ndarray:
    """Q3_K's 12 bytes of six-bit scales, 32 added -> (..., 16) int8, one for every 16 elements."""
    low, high = packed[..., :8], packed[..., 8:]
    low = np.concatenate([low & 15, low >> 4], axis=-1)
    high = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1)
    return _signed(low | high << 4, 32)


def _q3_k(blocks):
    codes, high = _pairs(blocks, 32).reshape(-1, 8, 32), np.ascontiguousarray(blocks[:, :32])
    for block in range(8):  # bit `block` of byte i is the third bit of element i of that block
        codes[:, block] |= (high // (1 << block) & 1) * np.uint8(4)
    return _signed(codes.reshape(-1, 256), 4), _halves(blocks, 108) * q3_k_scales(blocks[:, 96:108]), None


def k_scales(packed: np.ndarray) -> np.ndarray:
    """Q4_K's and Q5_K's 12 bytes of six-bit scales and minimums -> (..., 8, 2) uint8: (sc, m) of each block of 32."""
    sc, m, high = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    return np.stack([np.concatenate([sc & 63, (high & 15) | (sc >> 6) << 4], axis=-1),
                     np.concatenate([m & 63, (high >> 4) | (m >> 6) << 4], axis=-1)], axis=-1)


def _k_scales_and_offsets(blocks):
    scales = _halves(blocks, 0, 2)[:, None] * k_scales(blocks[:, 4:16])  # (n, 8, 2): d * sc, dmin * m
    return scales[..., 0], -scales[..., 1]


def _q4_k(blocks):
    return _nibbles(blocks, 16, 32), *_k_scales_and_offsets(blocks)


def _q5_k(blocks):
    codes, high = _nibbles(blocks, 48, 32).reshape(-1, 8, 32), np.ascontiguousarray(blocks[:, 16:48])
    for block in range(8):  # bit `block` of byte i is the fifth bit of element i of that block
        codes[:, block] |= (high // (1 << block) & 1) * np.uint8(16)
    return codes.reshape(-1, 256), *_k_scales_and_offsets(blocks)


def _q6_k(blocks):
    codes = _nibbles(blocks[:, :128], 0, 64).reshape(-1, 2, 4, 32)  # halves of 128 elements, quarters of those
    high = np.ascontiguousarray(blocks[:, 128:192]).reshape(-1, 2, 32)
    for quarter in range(4):
        codes[:, :, quarter] |= (high // (1 << 2 * quarter) & 3) * np.uint8(16)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return _signed(codes.reshape(-1, 256), 32), _halves(blocks, 208) * scales, None


UNPACK = {"f32": _f32, "f16": _f16, "bf16": _bf16, "q8_0": _q8_0, "q4_0": _q4_0, "q4_1": _q4_1, "q5_0": _q5_0, "q5_1": _q5_1, "q2_k": _q2_k,
          "q3_k": _q3_k, "q4_k": _q4_k, "q5_k": _q5_k, "q6_k": _q6_k}

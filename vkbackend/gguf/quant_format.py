"""A tensor format: exact dequantization for the CPU path, and packing into the device layout.

In: a tensor's rows as in the file, uint8 (rows, row_bytes). Out: f32 (rows, K), or the two planes of
shaders/quant/README.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from .dequantize import Unpack, Unpacked, dequantize

__all__ = ["BLOCK", "GROUP", "Planes", "QuantFormat", "Unpacked"]

# Rows per group, as in shaders/quant/planes.glsl: neighbouring lanes read neighbouring words, so reads are contiguous.
GROUP = 64
BLOCK = 32  # elements per packed block


Planes = tuple[np.ndarray, np.ndarray | None]  # codes and scales, uint32 (rows, ...)


@dataclass(frozen=True)
class QuantFormat:
    """One format.

    split: blocks, uint8 (rows, blocks, type_size), to their words in both planes, in plane order (codes in uvec4s);
    without scales if scale_words is 0. unpack: blocks to codes, scales and offsets, see `dequantize`. encode: f32
    (rows, K) to uint8 (rows, row_bytes), for formats without scales.

    quant_words: uint32 per row and block in the plane of codes. scale_words: uint32 per row and `record` elements in
    the plane of scales. half_positions, put_scales, largest_code: for random blocks, the bytes where a block has half
    floats; for formats without them a function that writes scales, f32 (...), into blocks (..., type_size); and the
    largest multiple of one that an element can be; of formats with codes for scales, a typical large multiple.
    shader, constants, table: for formats that share a file of shaders/quant, its name, the specialization constants
    that tell them apart, and the words that come before the plane of scales on a device.
    """

    type: GGMLQuantizationType
    split: Callable[[np.ndarray], Planes]
    unpack: Unpack
    quant_words: int
    scale_words: int
    record: int
    encode: Callable[[np.ndarray], np.ndarray] | None = None
    half_positions: tuple[int, ...] = (0,)
    put_scales: Callable[[np.ndarray, np.ndarray], None] | None = None
    largest_code: int = 8
    shader: str = ""
    constants: Mapping[str, int] = field(default_factory=dict, compare=False)
    table: Callable[[], np.ndarray] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The format's name, such as "q4_k"."""
        return self.type.name.lower()

    @property
    def kernels(self) -> str:
        """Name of the format's file in shaders/quant, and in the names of its kernels."""
        return self.shader or self.name

    @property
    def block_size(self) -> int:
        """Elements per block."""
        return GGML_QUANT_SIZES[self.type][0]

    @property
    def type_size(self) -> int:
        """Bytes per block."""
        return GGML_QUANT_SIZES[self.type][1]

    def randomize_scales(self, rng: np.random.Generator, blocks: np.ndarray, size: float) -> None:
        """Give blocks (..., type_size) random scales with which elements are about `size` at most."""
        for at in (0,) if self.put_scales else self.half_positions:
            scales = rng.uniform(-size, size, blocks.shape[:-1]) / self.largest_code
            if self.put_scales:
                self.put_scales(blocks, scales)
            else:
                blocks[..., at : at + 2] = scales.astype(np.float16)[..., None].view(np.uint8)

    def dequantize(self, raw: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 (rows, row_bytes) -> f32 (rows, K), the same bits as gguf's; into `out`, or a new array without it."""
        rows, row_bytes = raw.shape
        if out is None:
            out = np.empty((rows, row_bytes // self.type_size * self.block_size), np.float32)
        dequantize(self.unpack, np.ascontiguousarray(raw).reshape(-1, self.type_size), out.reshape(-1, self.block_size))
        return out

    def packed_shape(self, rows: int, k: int) -> tuple[int, int]:
        """Bytes of the plane of codes and of the plane of scales."""
        padded_rows = -(-rows // GROUP) * GROUP
        num_records = -(-k // self.record)
        return padded_rows * (k // BLOCK) * self.quant_words * 4, padded_rows * num_records * self.scale_words * 4

    @property
    def table_bytes(self) -> int:
        """Bytes of `table`, which are not part of `packed_shape`."""
        return self.table().nbytes if self.table else 0

    def pack(self, raw: np.ndarray, quants: np.ndarray, scales: np.ndarray) -> None:
        """Write both planes into uint8 arrays of `packed_shape`. Rows that fill up the last group are zero.

        This defines the layout. Loading uses native code (pack.cpp), which is many times as fast.

        It works in slabs of rows that fit the cache, so data is read and written once.
        """
        rows, row_bytes = raw.shape
        k = row_bytes // self.type_size * self.block_size
        groups = -(-rows // GROUP)
        num_records = -(-k // self.record)
        vectors = k // BLOCK * self.quant_words // 4  # uvec4s per row
        quant_view = quants.view(np.uint32).reshape(groups, vectors, GROUP, 4)
        scale_view = (
            scales[: groups * GROUP * num_records * self.scale_words * 4]
            .view(np.uint32)
            .reshape(groups, num_records * self.scale_words, GROUP)
        )
        slab = max(1, (1 << 20) // (row_bytes * GROUP)) * GROUP
        for first in range(0, rows, slab):
            part = raw[first : first + slab]
            if len(part) % GROUP:
                part = np.concatenate([part, np.zeros((-len(part) % GROUP, row_bytes), np.uint8)])
            some = slice(first // GROUP, (first + len(part)) // GROUP)
            quant_plane, scale_plane = self.split(part.reshape(len(part), -1, self.type_size))
            quant_view[some] = quant_plane.reshape(-1, GROUP, vectors, 4).transpose(0, 2, 1, 3)
            if scale_plane is not None:
                scale_view[some] = scale_plane.reshape(-1, GROUP, num_records * self.scale_words).transpose(0, 2, 1)

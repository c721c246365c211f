"""What a tensor format is: exact dequantization for the numpy reference, and packing into the device layout.

In: a tensor's rows as in the file, uint8 (rows, row_bytes). Out: f32 (rows, K), or the two planes of
shaders/quant/README.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from .dequantize import dequantize

# rows per group, as in shaders/quant/planes.glsl: a lane's neighbours read what lies beside it, and memory is read from
# end to end
GROUP = 64
BLOCK = 32  # elements per packed block


@dataclass(frozen=True)
class QuantFormat:
    """quant_words: uint32 per row and block in the plane of codes; scale_words: uint32 per row and `record` elements
    in that of scales.

    split(blocks uint8 (rows, blocks, type_size)) -> (quants uint32 (rows, ...), scales uint32 (rows, ...)): each
    row's records in plane order, where quants come in uvec4s. unpack(blocks uint8 (n, type_size)) -> (codes, scales,
    offsets), see `dequantize`. encode(f32 (rows, K)) -> uint8 (rows, row_bytes), for formats whose elements are
    numbers; None for those with scales. half_positions, largest_code: where a block keeps half floats, and the
    largest multiple of one that an element may be: random blocks need them.
    """

    type: GGMLQuantizationType
    split: Callable
    unpack: Callable
    quant_words: int
    scale_words: int
    record: int
    encode: Callable | None = None
    half_positions: tuple[int, ...] = (0,)
    largest_code: int = 8

    @property
    def name(self) -> str:
        return self.type.name.lower()

    @property
    def block_size(self) -> int:
        return GGML_QUANT_SIZES[self.type][0]

    @property
    def type_size(self) -> int:
        return GGML_QUANT_SIZES[self.type][1]

    def dequantize(self, raw: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 (rows, row_bytes) -> f32 (rows, K), bit-exact to gguf's; into `out` where there is one, else into a
        new array.
        """
        rows, row_bytes = raw.shape
        if out is None:
            out = np.empty((rows, row_bytes // self.type_size * self.block_size), np.float32)
        dequantize(self.unpack, np.ascontiguousarray(raw).reshape(-1, self.type_size), out.reshape(-1, self.block_size))
        return out

    def packed_shape(self, rows: int, k: int) -> tuple[int, int]:
        """-> bytes of the quants plane and of the scales plane."""
        groups = -(-rows // GROUP)
        return groups * GROUP * (k // BLOCK) * self.quant_words * 4, groups * GROUP * -(
            -k // self.record
        ) * self.scale_words * 4

    def pack(self, raw: np.ndarray, quants: np.ndarray, scales: np.ndarray) -> None:
        """Write both planes into uint8 arrays of `packed_shape`. Rows past the end of the last group become zero.

        Works in slabs of rows that stay in cache: the data is read and written once.
        """
        rows, row_bytes = raw.shape
        k = row_bytes // self.type_size * self.block_size
        groups, num_blocks, num_records = -(-rows // GROUP), k // BLOCK, -(-k // self.record)
        vectors = num_blocks * self.quant_words // 4  # uvec4s per row
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
            q, s = self.split(part.reshape(len(part), -1, self.type_size))
            quant_view[some] = q.reshape(-1, GROUP, vectors, 4).transpose(0, 2, 1, 3)
            if self.scale_words:
                scale_view[some] = s.reshape(-1, GROUP, num_records * self.scale_words).transpose(0, 2, 1)

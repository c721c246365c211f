"""Matrices that stay quantized: as rows of a file for the twins, as packed planes on a device.

In: rows as a GGUF stores them. Out: `PackedMatrix`, and `place`, which packs it into device memory in the layout of
shaders/quant/README.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..gguf.quants import FORMATS as BY_TYPE
from ..gguf.quants import GROUP, QuantFormat
from .op import BASE_LANES

FORMATS = {row.name: row for row in BY_TYPE.values()}
TILE_BYTES = 4 << 20  # of f32 rows that the twins multiply with at a time: they stay in cache for several tokens


@dataclass(frozen=True)
class Part:
    """Rows first_row ... first_row + num_rows - 1 of a matrix, packed in two buffers."""

    first_row: int
    num_rows: int
    quants: object
    scales: object


@dataclass(eq=False)
class PackedMatrix:
    """A matrix (rows, K) of one format: one tensor, or several stacked by rows.

    raws:  the tensors' quantized rows as in the file, uint8 (rows, row_bytes), views of the mapped file
    gated: two tensors of the same shape, a gate and what it opens; on the device their rows alternate, a group of lanes of each, so that one
           lane computes both halves of an output
    parts: where the packed rows lie on the device, in ranges that one binding can hold; empty on the CPU path
    """

    name: str
    shape: tuple[int, int]
    format: QuantFormat
    raws: list[np.ndarray]
    gated: bool = False
    parts: list[Part] = field(default_factory=list)
    _array: np.ndarray | None = None  # dequantized, where `expand` kept it

    @classmethod
    def random(cls, rng, format_name: str, rows: int, k: int, gated: bool = False) -> "PackedMatrix":
        """Random codes with scales that give elements of about the size that they have in real models. gated: `rows`
        of each half.
        """
        if gated:
            halves = [cls.random(rng, format_name, rows, k) for _ in range(2)]
            return cls("random", (2 * rows, k), halves[0].format, [half.raws[0] for half in halves], gated=True)
        kind = FORMATS[format_name]
        size = 0.05
        if kind.encode is not None:
            raw = kind.encode(rng.standard_normal((rows, k), np.float32) * np.float32(size))
        else:
            blocks = rng.integers(0, 256, (rows, k // kind.block_size, kind.type_size), np.uint8)
            for at in kind.half_positions:
                scale = rng.uniform(-size, size, blocks.shape[:2]) / kind.largest_code
                blocks[..., at : at + 2] = scale.astype(np.float16)[..., None].view(np.uint8)
            raw = blocks.reshape(rows, -1)
        return cls("random", (rows, k), kind, [raw])

    @classmethod
    def from_array(cls, array: np.ndarray, name: str = "array") -> "PackedMatrix":
        """A float32 array (rows, K) as it is: format f32."""
        if array.dtype != np.float32 or array.ndim != 2:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, must be float32 (rows, K)")
        return cls(name, array.shape, FORMATS["f32"], [np.ascontiguousarray(array).view(np.uint8)])

    @property
    def f32_bytes(self) -> int:
        """What the matrix takes dequantized."""
        return 4 * self.shape[0] * self.shape[1]

    def array(self) -> np.ndarray:
        """Dequantized, f32 (rows, K)."""
        return self.rows_from(0, self.shape[0]) if self._array is None else self._array

    def expand(self) -> None:
        """Keep the matrix dequantized, so that the twins need not do it at each use."""
        self._array = self.array()

    def tiles(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, f32 (some rows, K)) from top to bottom. Where a tile ends does not depend on whether the
        matrix is kept dequantized.
        """
        step = max(16, TILE_BYTES // (4 * self.shape[1]) // 16 * 16)
        for first in range(0, self.shape[0], step):
            last = min(first + step, self.shape[0])
            yield first, self.rows_from(first, last) if self._array is None else self._array[first:last]

    def rows_from(self, first: int, last: int) -> np.ndarray:
        """Rows first ... last - 1, newly dequantized, f32."""
        found, at = np.empty((last - first, self.shape[1]), np.float32), 0
        for raw in self.raws:  # what [first, last) covers of each tensor, whose own first row is `at`
            some = slice(max(first - at, 0), max(last - at, 0))
            part = raw[some]
            start = at + some.start - first
            self.format.dequantize(part, found[start : start + len(part)])
            at += len(raw)
        return found

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Some dequantized rows, f32 (len(ids), K), without touching the others."""
        if self._array is not None:
            return self._array[ids]
        raw = self.raws[0] if len(self.raws) == 1 else np.concatenate(self.raws)
        return self.format.dequantize(raw[ids])


def expand(matrices: list[PackedMatrix], budget: int, told: Callable[[int], None] = lambda num_bytes: None) -> int:
    """Keep `matrices` dequantized so far as `budget` bytes reach -> bytes that this took. The others stay as they
    are in the file: the twins dequantize them tile by tile at each use, which takes little memory, but more time
    than the product of one token. told: gets the bytes of the file that each one has.
    """
    taken = 0
    for matrix in matrices:
        if taken + matrix.f32_bytes <= budget:
            matrix.expand()
            taken += matrix.f32_bytes
            told(sum(raw.nbytes for raw in matrix.raws))
    return taken


def place(matrix: PackedMatrix, device, arena, told: Callable[[int], None] = lambda num_bytes: None) -> None:
    """Pack `matrix` into buffers of `arena` and remember them as its parts: straight into device memory where the
    host can write it, else through the upload ring. told: gets the bytes of the file that were packed, piece by
    piece. Raises OutOfMemory.
    """
    k = matrix.shape[1]
    lanes = row_lanes(device)
    if matrix.gated:
        raw, unit = _alternating(*matrix.raws, lanes), max(2 * lanes, GROUP)
    else:
        raw, unit = matrix.raws[0] if len(matrix.raws) == 1 else np.concatenate(matrix.raws), GROUP
    rows = len(raw)
    limit = largest_binding(device, matrix)
    step = limit // max(matrix.format.packed_shape(unit, k)) * unit
    for first in range(0, rows, step):
        count = min(step, rows - first)
        quants_bytes, scales_bytes = matrix.format.packed_shape(count, k)
        quants, scales = arena.allocate(quants_bytes), arena.allocate(max(scales_bytes, 16))
        if device.is_unified:
            matrix.format.pack(
                raw[first : first + count],
                quants.array(np.uint8, (quants_bytes,)),
                scales.array(np.uint8, (scales_bytes,)),
            )
        else:
            packed_quants, packed_scales = np.empty(quants_bytes, np.uint8), np.empty(scales_bytes, np.uint8)
            matrix.format.pack(raw[first : first + count], packed_quants, packed_scales)
            device.upload(quants, packed_quants)
            if scales_bytes:
                device.upload(scales, packed_scales)
        matrix.parts.append(Part(first, count, quants, scales))
        told(raw[first : first + count].nbytes)


def row_lanes(device) -> int:
    """How many neighbouring rows the lanes of a group take."""
    return BASE_LANES if device.flavor == "base" else device.lanes


def _alternating(gate: np.ndarray, up: np.ndarray, lanes: int) -> np.ndarray:
    """`lanes` rows of one, then of the other, and so on; both filled up with zeros to whole groups."""
    missing = -len(gate) % lanes
    pair = [
        np.concatenate([raw, np.zeros((missing, raw.shape[1]), np.uint8)]) if missing else raw for raw in (gate, up)
    ]
    return np.stack([raw.reshape(-1, lanes, raw.shape[1]) for raw in pair], axis=1).reshape(-1, gate.shape[1])


def largest_binding(device, matrix: PackedMatrix) -> int:
    """Bytes of `matrix` that one binding can hold: also as a texel buffer, whose scales are one word per texel."""
    limits = device.info.limits
    if device.flavor != "texel":
        return limits.max_storage_buffer_range
    quants_bytes, scales_bytes = matrix.format.packed_shape(GROUP, matrix.shape[1])
    texels = limits.max_texel_buffer_elements
    by_quants, by_scales = texels * 16, texels * 4 * quants_bytes // max(scales_bytes, 1)
    return min(limits.max_storage_buffer_range, by_quants, by_scales)

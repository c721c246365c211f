"""Matrices that stay quantized: rows of a file for the twins, packed planes on a device.

In: rows as a GGUF stores them. Out: `PackedMatrix`. `packing.place` packs it into device memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..device.buffers import Buffer
from ..gguf.quants import FORMATS as BY_TYPE
from ..gguf.quants import QuantFormat

FORMATS = {row.name: row for row in BY_TYPE.values()}
TILE_BYTES = 4 << 20  # of dequantized rows that the twins use at a time: they stay in cache for several tokens


@dataclass(frozen=True)
class PackedRows:
    """Rows first_row ... first_row + num_rows - 1 of a matrix, packed in two buffers."""

    first_row: int
    num_rows: int
    quants: Buffer
    scales: Buffer


@dataclass(eq=False)
class PackedMatrix:
    """A matrix (rows, K) of one format: one tensor, or several stacked by rows.

    raws: the tensors' quantized rows as in the file, uint8 (rows, row_bytes), views of the mapped file.
    gated: two tensors of the same shape, a gate and up. On the device their rows alternate in groups of lanes, so that
        one lane computes both halves of an output.
    experts: of how many matrices of the same shape (rows / experts, K) the rows are, one after the other.
    parts: the packed rows on the device, in ranges that one binding can hold; empty on the CPU path.
    """

    name: str
    shape: tuple[int, int]
    format: QuantFormat
    raws: list[np.ndarray]
    gated: bool = False
    experts: int = 1
    parts: list[PackedRows] = field(default_factory=list)
    _array: np.ndarray | None = None  # dequantized, if `expand` was called

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        format_name: str,
        rows: int,
        k: int,
        gated: bool = False,
        size: float = 0.05,
        experts: int = 1,
    ) -> "PackedMatrix":
        """Random codes, with scales that give elements of about `size`: 0.05 is typical of real models. gated: `rows`
        is the number of rows of each half.
        """
        if gated:
            halves = [cls.random(rng, format_name, rows, k, size=size) for _ in range(2)]
            raws = [half.raws[0] for half in halves]
            return cls("random", (2 * rows, k), halves[0].format, raws, gated=True, experts=experts)
        kind = FORMATS[format_name]
        if kind.encode is not None:
            raw = kind.encode(rng.standard_normal((rows, k), np.float32) * np.float32(size))
        else:
            blocks = rng.integers(0, 256, (rows, k // kind.block_size, kind.type_size), np.uint8)
            kind.randomize_scales(rng, blocks, size)
            raw = blocks.reshape(rows, -1)
        return cls("random", (rows, k), kind, [raw], experts=experts)

    @classmethod
    def from_array(cls, array: np.ndarray, name: str = "array") -> "PackedMatrix":
        """Wrap a float32 array (rows, K); format f32."""
        if array.dtype != np.float32 or array.ndim != 2:
            raise ValueError(f"{name} is {array.dtype} {array.shape}; it must be float32 (rows, K)")
        rows, k = array.shape
        return cls(name, (rows, k), FORMATS["f32"], [np.ascontiguousarray(array).view(np.uint8)])

    @property
    def f32_bytes(self) -> int:
        """Bytes of the dequantized matrix."""
        return 4 * self.shape[0] * self.shape[1]

    def array(self) -> np.ndarray:
        """The dequantized matrix, f32 (rows, K)."""
        return self.rows_from(0, self.shape[0]) if self._array is None else self._array

    def expand(self) -> None:
        """Keep a dequantized copy, so that the twins need not dequantize at each use."""
        self._array = self.array()

    def tiles(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, f32 (rows of the tile, K)) from top to bottom. Tile boundaries do not depend on whether
        the matrix is kept dequantized.
        """
        step = max(16, TILE_BYTES // (4 * self.shape[1]) // 16 * 16)
        for first in range(0, self.shape[0], step):
            last = min(first + step, self.shape[0])
            yield first, self.dequantized(first, last)

    def dequantized(self, first: int, last: int) -> np.ndarray:
        """Rows first ... last - 1, f32; the others are not touched."""
        return self.rows_from(first, last) if self._array is None else self._array[first:last]

    def rows_from(self, first: int, last: int) -> np.ndarray:
        """Dequantize rows first ... last - 1, f32."""
        found = np.empty((last - first, self.shape[1]), np.float32)
        at = 0  # first row of the current tensor
        for raw in self.raws:
            some = slice(max(first - at, 0), max(last - at, 0))
            part = raw[some]
            start = at + some.start - first
            self.format.dequantize(part, found[start : start + len(part)])
            at += len(raw)
        return found

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The dequantized rows `ids`, f32 (len(ids), K); the others are not touched."""
        if self._array is not None:
            return self._array[ids]
        return self.format.dequantize(self.raw_rows(ids))

    def raw_rows(self, ids: np.ndarray) -> np.ndarray:
        """The rows `ids` as in the file, uint8 (len(ids), row_bytes)."""
        starts = np.cumsum([0, *map(len, self.raws)])
        tensors = np.searchsorted(starts, ids, "right") - 1
        found = np.empty((len(ids), self.raws[0].shape[1]), np.uint8)
        for at, raw in enumerate(self.raws):
            is_here = tensors == at
            found[is_here] = raw[ids[is_here] - starts[at]]
        return found


def _ignore(num_bytes: int) -> None:
    """The default of `report`."""


def expand(matrices: list[PackedMatrix], budget: int, report: Callable[[int], None] = _ignore) -> int:
    """Keep `matrices` dequantized as far as `budget` bytes allow. Returns the bytes used.

    The twins dequantize the others tile by tile at each use, which needs little memory but takes longer than the
    product of one token. report: called with each expanded matrix's bytes in the file.
    """
    chosen = within_budget(matrices, budget)
    for matrix in chosen:
        matrix.expand()
        report(sum(raw.nbytes for raw in matrix.raws))
    return sum(matrix.f32_bytes for matrix in chosen)


def within_budget(matrices: list[PackedMatrix], budget: int) -> list[PackedMatrix]:
    """The matrices that are kept dequantized if `budget` bytes are there for them."""
    chosen, taken = [], 0
    for matrix in matrices:
        if taken + matrix.f32_bytes <= budget:
            chosen.append(matrix)
            taken += matrix.f32_bytes
    return chosen

"""Weights -> device memory: all of a model's, or those of some of its layers."""

import re
from dataclasses import dataclass

from ..device.buffers import Arena
from ..ops.packed import PackedMatrix, place
from ..progress import LoadProgress
from .vector import Vector


class DevicePlacer:
    """Puts each weight of a model into one device's memory. expected_bytes: about what they take in all. progress:
    is told of what is there.
    """

    def __init__(self, device, expected_bytes: int, progress: LoadProgress):
        self.device, self.progress = device, progress
        self.arena = Arena(device, "device")
        self.arena.expect(expected_bytes)

    def place_vector(self, vector: Vector) -> None:
        vector.buffer = self.arena.allocate(vector.values.nbytes)
        self.device.upload(vector.buffer, vector.values)
        self.progress.add(vector.values.nbytes)

    def place_matrix(self, matrix: PackedMatrix) -> None:
        place(matrix, self.device, self.arena, self.progress.add)


BLOCK = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Span:
    """Layers first ... last - 1 of a model of num_blocks blocks; its layer number num_blocks is the output. is_tied:
    the output is the embedding.
    """

    first: int
    last: int
    num_blocks: int
    is_tied: bool

    @property
    def has_input(self) -> bool:
        return self.first == 0

    @property
    def has_output(self) -> bool:
        return self.last > self.num_blocks

    @property
    def blocks(self) -> range:
        return range(self.first, min(self.last, self.num_blocks))

    def holds(self, name: str) -> bool:
        """Whether a tensor of this name is needed here. What belongs to no block and no end, such as frequencies, is
        needed everywhere.
        """
        block = BLOCK.match(name)
        if block:
            return int(block[1]) in self.blocks
        if name.startswith("token_embd."):
            return self.has_input or self.has_output and self.is_tied
        return self.has_output or not name.startswith(("output.", "output_norm."))


class SpanPlacer(DevicePlacer):
    """Leaves weights of other layers where they are: in the file."""

    def __init__(self, device, expected_bytes: int, span: Span, progress: LoadProgress):
        super().__init__(device, expected_bytes, progress)
        self.span = span

    def place_vector(self, vector: Vector) -> None:
        if self.span.holds(vector.name):
            super().place_vector(vector)

    def place_matrix(self, matrix: PackedMatrix) -> None:
        if self.span.holds(matrix.name):
            super().place_matrix(matrix)

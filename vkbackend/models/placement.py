"""Weights -> device memory."""

from ..device.buffers import Arena
from ..ops.packed import PackedMatrix, place
from .weights import Vector


class DevicePlacer:
    """Puts each weight of a model into one device's memory. expected_bytes: about what they take in all."""

    def __init__(self, device, expected_bytes: int):
        self.device = device
        self.arena = Arena(device, "device")
        self.arena.expect(expected_bytes)

    def place_vector(self, vector: Vector) -> None:
        vector.buffer = self.arena.allocate(vector.values.nbytes)
        self.device.upload(vector.buffer, vector.values)

    def place_matrix(self, matrix: PackedMatrix) -> None:
        place(matrix, self.device, self.arena)

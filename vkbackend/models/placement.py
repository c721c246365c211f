"""Weights -> device memory: packed row groups, in parts that one binding can hold."""

import numpy as np

from ..device.buffers import Arena
from .weights import Part, Vector, Weight

GROUP = 8  # rows are packed in groups of this many


class DevicePlacer:
    """Packs each weight straight into the device's memory where the host can write it, else through the upload ring."""

    def __init__(self, device):
        self.device = device
        self.arena = Arena(device, "weights")

    def place_vector(self, vector: Vector) -> None:
        vector.buffer = self.arena.allocate(vector.values.nbytes)
        self.device.upload(vector.buffer, vector.values)

    def place_matrix(self, weight: Weight) -> None:
        rows, k = weight.shape
        group_quants, group_scales = weight.format.packed_shape(GROUP, k)
        limit = self.device.info.limits.max_storage_buffer_range
        step = limit // max(group_quants, group_scales) * GROUP
        raw = weight.raws[0] if len(weight.raws) == 1 else np.concatenate(weight.raws)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            quants_bytes, scales_bytes = weight.format.packed_shape(count, k)
            quants, scales = self.arena.allocate(quants_bytes), self.arena.allocate(max(scales_bytes, 16))
            self._pack(weight, raw[first:first + count], quants, scales, quants_bytes, scales_bytes)
            weight.parts.append(Part(first, count, quants, scales))

    def _pack(self, weight, raw, quants, scales, quants_bytes, scales_bytes):
        if self.device.is_unified:
            weight.format.pack(raw, quants.array(np.uint8, (quants_bytes,)), scales.array(np.uint8, (scales_bytes,)))
            return
        packed_quants, packed_scales = np.empty(quants_bytes, np.uint8), np.empty(scales_bytes, np.uint8)
        weight.format.pack(raw, packed_quants, packed_scales)
        self.device.upload(quants, packed_quants)
        if scales_bytes:
            self.device.upload(scales, packed_scales)

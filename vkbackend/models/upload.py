"""Copies weights into the memory of a device."""

from collections.abc import Iterable

from ..device.buffers import Arena, aligned
from ..device.context import Device
from ..graph.vector import Vector
from ..ops.packed import PackedMatrix
from ..ops.packing import packed_rows, place
from ..progress import LoadProgress

BUFFER_ALIGNMENT = 256  # bytes; the largest that Vulkan allows a device to ask for


def device_bytes(weight: PackedMatrix | Vector, lanes: int) -> int:
    """Bytes that a weight takes on a device whose groups have `lanes` lanes."""
    if isinstance(weight, Vector):
        return aligned(weight.values.nbytes, BUFFER_ALIGNMENT)
    quants, scales = weight.format.packed_shape(packed_rows(weight, lanes), weight.shape[1])
    return aligned(quants, BUFFER_ALIGNMENT) + aligned(weight.format.table_bytes + scales, BUFFER_ALIGNMENT)


def upload(
    weights: Iterable[PackedMatrix | Vector], device: Device, expected_bytes: int, progress: LoadProgress
) -> int:
    """Give each weight its place on `device`. Returns the bytes of device memory that they take.

    expected_bytes: about how much that will be. Raises OutOfMemory, DeviceError.
    """
    arena = Arena(device, "weights")
    arena.expect(expected_bytes)
    for weight in weights:
        if isinstance(weight, PackedMatrix):
            place(weight, device, arena, progress.add)
        else:
            weight.buffer = arena.allocate(weight.values.nbytes)
            device.upload(weight.buffer, weight.values)
            progress.add(weight.values.nbytes)
    device.finish_uploads()
    return arena.num_bytes

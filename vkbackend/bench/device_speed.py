"""How fast a device can be at all: what `bench` holds a model's speed against.

In: an open `Device`. Out: `Bandwidth`, measured with shaders/bandwidth.comp.
"""

import time
from dataclasses import dataclass

import numpy as np

from ..device.buffers import Buffer
from ..device.dispatch import Dispatch, Program
from ..errors import OutOfMemory

BANDWIDTH_BYTES = 64 << 20  # more than the last cache of most devices
BANDWIDTH_RUNS = 5
UNROLL, LANES = 8, 64  # shaders/bandwidth.comp


@dataclass(frozen=True)
class Bandwidth:
    """Bytes per second; a copy counts what it reads and what it writes."""

    read: float
    copy: float

    @property
    def best(self) -> float:
        return max(self.read, self.copy)


def measure_bandwidth(device) -> Bandwidth:
    """Read and copy BANDWIDTH_BYTES (less where the device has less) with shaders/bandwidth.comp; the best of BANDWIDTH_RUNS.

    Raises OutOfMemory where not even 1 MiB is free.
    """
    limits = device.info.limits
    step = 16 * UNROLL * LANES
    num_bytes = min(BANDWIDTH_BYTES, limits.max_storage_buffer_range, device.free_memory() // 4) // step * step
    if num_bytes < 1 << 20:
        raise OutOfMemory(f"{device.info.name} has no room for a bandwidth test of 1 MiB; close other programs")
    source, target = (Buffer(device.memory(num_bytes, "device"), 0, num_bytes) for _ in range(2))
    # Memory never written may be a single page of zeros behind many addresses, which caches hold.
    device.upload(source, np.arange(num_bytes // 4, dtype=np.uint32))
    groups = (num_bytes // step, 1, 1)
    sums = target.slice(0, num_bytes // UNROLL // 4)
    reads = ["bandwidth_read_base"]
    if num_bytes // 16 <= limits.max_texel_buffer_elements:
        reads.append("bandwidth_read_texel")
    read = max((num_bytes + sums.num_bytes) / _best_seconds(device, Dispatch(name, (source,), (sums,), groups)) for name in reads)
    copy = 2 * num_bytes / _best_seconds(device, Dispatch("bandwidth_copy", (source,), (target,), groups))
    return Bandwidth(read, copy)


def _best_seconds(device, dispatch: Dispatch) -> float:
    """By the device's clock where it has one."""
    program = Program(device, [dispatch], timestamps=bool(device.info.timestamp_bits))
    found = []
    for _ in range(BANDWIDTH_RUNS + 1):
        start = time.perf_counter()
        program.run()
        found.append(program.timings()[0] if device.info.timestamp_bits else time.perf_counter() - start)
    return min(found[1:])

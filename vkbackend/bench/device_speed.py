"""How fast a device can be at all: what `bench` holds a model's speed against.

In: an open `Device`. Out: `DeviceSpeed`: memory read and copied (shaders/bandwidth.comp), numbers multiplied and
added (shaders/fma.comp).
"""

import time
from dataclasses import astuple, dataclass

import numpy as np

from ..device.buffers import Buffer
from ..device.dispatch import Dispatch, Program
from ..errors import DeviceError, OutOfMemory

BANDWIDTH_BYTES = 64 << 20  # more than the last cache of most devices
RUNS = 5
COPY_UNROLL, LANES = 8, 64  # shaders/bandwidth.comp
FMA_CHAINS, FMA_UNROLL = 8, 4  # shaders/fma.comp
FMA_SECONDS = 0.02  # a run is made this long: short against what drivers allow, long against starting it
FMA_GROUPS = {True: 64, False: 4096}  # by is_cpu: every core and lane has work


@dataclass(frozen=True)
class DeviceSpeed:
    """The best of RUNS. read, copy: bytes per second, where a copy counts what it reads and what it writes. f32,
    f16: operations per second of fused multiply-adds (two each) that wait for nothing; f16 None where the device has
    no 16-bit arithmetic.
    """

    read: float
    copy: float
    f32: float
    f16: float | None

    @property
    def bandwidth(self) -> float:
        return max(self.read, self.copy)

    def or_better(self, other: "DeviceSpeed") -> "DeviceSpeed":
        """The faster of two measurements, each figure by itself: what a device can do, some other program may have
        kept it from.
        """
        return DeviceSpeed(*(max(pair) if None not in pair else None for pair in zip(astuple(self), astuple(other))))


def measure_device(device) -> DeviceSpeed:
    """Raises OutOfMemory where not even 1 MiB is free, DeviceError where the device's clock stands still."""
    read, copy = _bandwidth(device)
    return DeviceSpeed(
        read,
        copy,
        _operations(device, "fma_f32", 1),
        _operations(device, "fma_f16", 2) if device.supports("float16") else None,
    )


def _bandwidth(device) -> tuple[float, float]:
    """BANDWIDTH_BYTES (less where the device has less) read and copied -> bytes per second of each."""
    limits = device.info.limits
    step = 16 * COPY_UNROLL * LANES
    num_bytes = min(BANDWIDTH_BYTES, limits.max_storage_buffer_range, device.free_memory() // 4) // step * step
    if num_bytes < 1 << 20:
        raise OutOfMemory(f"{device.info.name} has no room for a bandwidth test of 1 MiB; close other programs")
    source, target = (Buffer(device.memory(num_bytes, "device"), 0, num_bytes) for _ in range(2))
    # Memory never written may be a single page of zeros behind many addresses, which caches hold.
    device.upload(source, np.arange(num_bytes // 4, dtype=np.uint32))
    groups = (num_bytes // step, 1, 1)
    sums = target.slice(0, num_bytes // COPY_UNROLL // 4)
    reads = ["bandwidth_read_base"]
    if num_bytes // 16 <= limits.max_texel_buffer_elements:
        reads.append("bandwidth_read_texel")
    read = max(
        (num_bytes + sums.num_bytes) / best_seconds(device, Dispatch(name, (source,), (sums,), groups))
        for name in reads
    )
    copy = 2 * num_bytes / best_seconds(device, Dispatch("bandwidth_copy", (source,), (target,), groups))
    return read, copy


def _operations(device, shader: str, width: int) -> float:
    """Operations per second of a variant of fma.comp, whose chains carry `width` numbers each."""
    groups = FMA_GROUPS[device.info.is_cpu]
    sums = Buffer(device.memory(groups * LANES * 4, "device"), 0, groups * LANES * 4)

    def seconds(rounds, runs):
        return best_seconds(
            device,
            Dispatch(shader, (), (sums,), (groups, 1, 1), push={"rounds": rounds, "factor": 0.999, "addend": 0.5}),
            runs,
        )

    rounds, taken = 16, seconds(16, 2)
    while taken < FMA_SECONDS and rounds < 1 << 24:
        rounds *= max(2, min(16, int(FMA_SECONDS / taken) + 1))
        taken = seconds(rounds, 1)
    return 2 * width * FMA_CHAINS * FMA_UNROLL * rounds * groups * LANES / min(taken, seconds(rounds, RUNS))


def best_seconds(device, dispatch: Dispatch, runs: int = RUNS) -> float:
    """The shortest of `runs` after one that is not counted, by the device's clock where it has one. Raises
    DeviceError where that stands still.
    """
    program = Program(device, [dispatch], timestamps=bool(device.info.timestamp_bits))
    found = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        program.run()
        found.append(program.timings()[0] if device.info.timestamp_bits else time.perf_counter() - start)
    if min(found[1:]) <= 0:
        raise DeviceError(
            f"{device.info.name}: its clock stands still, so nothing can be measured; is it a mock device?"
        )
    return min(found[1:])

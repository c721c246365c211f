"""Measures a device's peak rates, to which `bench` compares a model's speed.

In: an open `Device`. Out: `DeviceSpeed`: memory bandwidth (shaders/bandwidth.comp) and arithmetic rates
(shaders/fma.comp).
"""

import time
from dataclasses import dataclass

import numpy as np

from ..device.buffers import Buffer
from ..device.context import Device
from ..device.dispatch import Dispatch, Program
from ..errors import DeviceError, OutOfMemory

BANDWIDTH_BYTES = 64 << 20  # more than the last-level cache of most devices
RUNS = 5
COPY_UNROLL, LANES = 8, 64  # shaders/bandwidth.comp
FMA_CHAINS, FMA_UNROLL = 8, 4  # shaders/fma.comp
FMA_SECONDS = 0.02  # length of a run: far below the limits of drivers, far above the time to start it
FMA_GROUPS = {True: 64, False: 4096}  # by is_cpu: enough for every core and lane


@dataclass(frozen=True)
class DeviceSpeed:
    """Peak rates, the best of RUNS.

    read, copy: bytes per second; a copy counts the bytes it reads and those it writes
    f32, f16: operations per second of independent fused multiply-adds (two operations each); f16 is None if the device
    has no 16-bit arithmetic
    """

    read: float
    copy: float
    f32: float
    f16: float | None

    @property
    def bandwidth(self) -> float:
        """Bytes per second, read or copied."""
        return max(self.read, self.copy)

    def or_better(self, other: "DeviceSpeed") -> "DeviceSpeed":
        """The higher rates of two measurements: another program may have slowed one of them down."""
        f16 = None if self.f16 is None or other.f16 is None else max(self.f16, other.f16)
        return DeviceSpeed(max(self.read, other.read), max(self.copy, other.copy), max(self.f32, other.f32), f16)


def measure_device(device: Device) -> DeviceSpeed:
    """Measure a device.

    Raises OutOfMemory if it has less than 1 MiB free, DeviceError if its timestamps do not advance.
    """
    read, copy = _bandwidth(device)
    return DeviceSpeed(
        read,
        copy,
        _operations(device, "fma_f32", 1),
        _operations(device, "fma_f16", 2) if device.supports("float16") else None,
    )


def _bandwidth(device: Device) -> tuple[float, float]:
    """Bytes per second of reading and of copying BANDWIDTH_BYTES, or what the device has."""
    limits = device.info.limits
    step = 16 * COPY_UNROLL * LANES
    num_bytes = min(BANDWIDTH_BYTES, limits.max_storage_buffer_range, device.free_memory() // 4) // step * step
    if num_bytes < 1 << 20:
        raise OutOfMemory(f"{device.info.name} has no room for a bandwidth test of 1 MiB; close other programs")
    source, target = (Buffer(device.memory(num_bytes, "device"), 0, num_bytes) for _ in range(2))
    # Memory that was never written may be one page of zeros mapped many times, which fits into caches.
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


def _operations(device: Device, shader: str, width: int) -> float:
    """Operations per second of a variant of fma.comp with `width` numbers in each chain."""
    groups = FMA_GROUPS[device.info.is_cpu]
    sums = Buffer(device.memory(groups * LANES * 4, "device"), 0, groups * LANES * 4)

    def seconds(rounds: int, runs: int) -> float:
        return best_seconds(
            device,
            Dispatch(shader, (), (sums,), (groups, 1, 1), push={"rounds": rounds, "factor": 0.999, "addend": 0.5}),
            runs,
        )

    rounds = 16
    taken = seconds(rounds, 2)
    while taken < FMA_SECONDS and rounds < 1 << 24:
        rounds *= max(2, min(16, int(FMA_SECONDS / taken) + 1))
        taken = seconds(rounds, 1)
    return 2 * width * FMA_CHAINS * FMA_UNROLL * rounds * groups * LANES / min(taken, seconds(rounds, RUNS))


def best_seconds(device: Device, dispatch: Dispatch, runs: int = RUNS) -> float:
    """The shortest of `runs` runs after one that is not counted, by the device's clock if it has one.

    Raises DeviceError if its timestamps do not advance.
    """
    program = Program(device, [dispatch], timestamps=bool(device.info.timestamp_bits))
    found = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        program.run()
        found.append(program.timings()[0] if device.info.timestamp_bits else time.perf_counter() - start)
    if min(found[1:]) <= 0:
        raise DeviceError(
            f"{device.info.name}: its timestamps do not advance, so nothing can be measured; is it a mock device?"
        )
    return min(found[1:])

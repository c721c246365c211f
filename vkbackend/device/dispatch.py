"""Dispatches -> one recorded kp.Sequence, with the barriers that their reads and writes require.

In: `Dispatch`es in order. Out: `Program`, recorded once and run many times. Dispatches declare what they read and
write: two of them get a barrier in between only if one writes bytes that the other reads or writes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

import numpy as np

from .. import _native
from ..errors import DeviceError, DeviceLost, VkbackendError
from . import vulkan_constants as vk
from .buffers import Buffer
from .device_info import DeviceInfo
from .failures import as_device_error, translated
from .interface import Value
from .shaders import interface

RUN_LIMIT_NS = 120 * 10**9  # a device whose step takes longer counts as lost
COMPILING_LIMIT_NS = 10 * RUN_LIMIT_NS  # of drivers that compile a step's kernels when it runs for the first time

STAGE_COMPUTE = vk.VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT
STAGE_TRANSFER = vk.VK_PIPELINE_STAGE_TRANSFER_BIT
STAGE_HOST = vk.VK_PIPELINE_STAGE_HOST_BIT
SHADER_READ, SHADER_WRITE = vk.VK_ACCESS_SHADER_READ_BIT, vk.VK_ACCESS_SHADER_WRITE_BIT
TRANSFER_READ, TRANSFER_WRITE = vk.VK_ACCESS_TRANSFER_READ_BIT, vk.VK_ACCESS_TRANSFER_WRITE_BIT
HOST_READ, HOST_WRITE = vk.VK_ACCESS_HOST_READ_BIT, vk.VK_ACCESS_HOST_WRITE_BIT


@dataclass(frozen=True)
class Dispatch:
    """One run of a kernel.

    shader: variant name in shaders/variants.toml.
    reads, writes: the bindings, in this order; a buffer in `writes` may be read as well.
    groups: workgroups in x, y, z.
    constants, push: a value for each specialization constant and each member of the push-constant block, by name.
    subgroup_size: required size, 0 = any.
    flops, label: for profiles.
    constant_words: (constant_id, word) of each constant. push_words: the words of the push-constant block.
    Raises DeviceError for an unknown shader, an unknown or missing name, or a value that does not fit its type.
    """

    shader: str
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    groups: tuple[int, int, int]
    constants: Mapping[str, Value] = field(default_factory=dict, hash=False)
    push: Mapping[str, Value] = field(default_factory=dict, hash=False)
    subgroup_size: int = 0
    flops: int = 0
    label: str = ""
    constant_words: tuple[tuple[int, int], ...] = field(init=False)
    push_words: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = interface(self.shader)
        object.__setattr__(self, "constant_words", names.constant_words(self.constants))
        object.__setattr__(self, "push_words", names.push_words(self.push))

    @property
    def num_bytes(self) -> int:
        """Bytes bound: an upper bound of the bytes moved."""
        return sum(buffer.num_bytes for buffer in (*self.reads, *self.writes))


def hazard_points(dispatches: Iterable[Dispatch]) -> list[int]:
    """Indices of the dispatches that need a barrier before them: read after write, write after read or write after
    write of overlapping bytes since the previous barrier.
    """
    points: list[int] = []
    reads: list[Buffer] = []
    writes: list[Buffer] = []
    for index, dispatch in enumerate(dispatches):
        conflict = any(a.overlaps(b) for a in (*dispatch.reads, *dispatch.writes) for b in writes) or any(
            a.overlaps(b) for a in dispatch.writes for b in reads
        )
        if conflict:
            points.append(index)
            reads, writes = [], []
        reads.extend(dispatch.reads)
        writes.extend(dispatch.writes)
    return points


class Kernels(Protocol):
    """The part of `kernel_cache.KernelCache` that recordings use."""

    def get(self, dispatch: Dispatch) -> _native.Kernel:
        """The pipeline for a dispatch. Raises DeviceError if the device lacks a feature that the variant needs."""
        ...

    def fitting(self, dispatch: Dispatch) -> Dispatch:
        """The dispatch, with another variant if its texel buffers are too large for the device.

        Raises DeviceError if there is no such variant.
        """
        ...


class RecordingDevice(Protocol):
    """The part of `context.Device` that recordings use."""

    info: DeviceInfo
    is_lost: bool
    queue_lock: Lock
    _context: _native.Context

    @property
    def kernels(self) -> Kernels:
        """The pipelines of the device."""
        ...

    def check_current(self, memory: _native.Memory) -> None:
        """Raise DeviceLost if `memory` was allocated before the device was reopened."""
        ...


class Recorder:
    """Records into one kp.Sequence. It begins with a barrier that makes host writes visible to the device and ends with
    one that makes results visible to the host.

    Raises DeviceLost for buffers made before the device was reopened.
    """

    def __init__(self, device: RecordingDevice):
        self.device = device
        self.sequence = device._context.sequence()
        self.capture = _native.OpCapture()
        self.sequence.record(self.capture)
        self._barrier(
            STAGE_HOST | STAGE_COMPUTE | STAGE_TRANSFER,
            HOST_WRITE | SHADER_WRITE | TRANSFER_WRITE,
            STAGE_COMPUTE | STAGE_TRANSFER,
            SHADER_READ | SHADER_WRITE | TRANSFER_READ | TRANSFER_WRITE,
        )

    def _barrier(self, from_stage: int, from_access: int, to_stage: int, to_access: int) -> None:
        self.sequence.record(_native.OpBarrier(from_stage, from_access, to_stage, to_access))

    def compute_barrier(self) -> None:
        """Between dispatches."""
        self._barrier(STAGE_COMPUTE, SHADER_READ | SHADER_WRITE, STAGE_COMPUTE, SHADER_READ | SHADER_WRITE)

    def transfer_barrier(self) -> None:
        """Between dispatches and copies."""
        self._barrier(STAGE_COMPUTE, SHADER_WRITE, STAGE_TRANSFER, TRANSFER_READ)

    def dispatch(self, dispatch: Dispatch) -> None:
        """Record one dispatch, without a barrier."""
        kernel = self.device.kernels.get(dispatch)
        ranges = [(buffer.memory, buffer.offset, buffer.num_bytes) for buffer in (*dispatch.reads, *dispatch.writes)]
        for memory, _, _ in ranges:
            self.device.check_current(memory)
        with translated(f"{self.device.info.name}: {dispatch.shader}"):
            self.sequence.record(_native.OpDispatch(kernel, ranges, list(dispatch.groups), list(dispatch.push_words)))

    def copy(
        self, source: _native.Memory, source_offset: int, target: _native.Memory, target_offset: int, num_bytes: int
    ) -> None:
        """Record a copy, without a barrier."""
        self.device.check_current(source)
        self.device.check_current(target)
        self.sequence.record(_native.OpCopy(source, source_offset, target, target_offset, num_bytes))

    def timestamp(self, timestamps: _native.Timestamps, index: int) -> None:
        """Record the time at this point."""
        self.sequence.record(_native.OpTimestamp(timestamps, index))

    def finish(self) -> "Recording":
        """End the recording."""
        self._barrier(STAGE_COMPUTE | STAGE_TRANSFER, SHADER_WRITE | TRANSFER_WRITE, STAGE_HOST, HOST_READ)
        context = self.device._context
        return Recording(self.device, _native.Submission(context, self.sequence, self.capture), context)


@dataclass
class Recording:
    """A finished recording, which can run many times. context: of the device at the time of recording."""

    device: RecordingDevice
    submission: _native.Submission
    context: _native.Context

    @property
    def _usual_limit_ns(self) -> int:
        return COMPILING_LIMIT_NS if self.device.info.compiles_when_run else RUN_LIMIT_NS

    def run(self, limit_ns: int | None = None) -> None:
        """Submit and wait, without the GIL. limit_ns: None for the driver's usual limit. Raises DeviceLost,
        DeviceError.
        """
        self.submit(limit_ns)
        self.wait(limit_ns)

    def submit(self, limit_ns: int | None = None) -> None:
        """Submit without waiting; the device runs submissions in order. limit_ns: for a previous run of this recording
        that is not known to be done.
        """
        try:
            with self.device.queue_lock:
                self.submission.submit(self._usual_limit_ns if limit_ns is None else limit_ns)
        except _native.VulkanError as error:
            raise self._failure(error) from error

    def wait(self, limit_ns: int | None = None) -> None:
        """Wait until it is done, without the GIL. Raises DeviceLost, DeviceError."""
        try:
            self.submission.wait(self._usual_limit_ns if limit_ns is None else limit_ns)
        except _native.VulkanError as error:
            raise self._failure(error) from error

    def _failure(self, error: _native.VulkanError) -> VkbackendError:
        """The error to raise. A lost device is marked as lost, unless it was reopened since this recording was made."""
        failure = as_device_error(error, f"{self.device.info.name}: running a step")
        if isinstance(failure, DeviceLost) and self.context is self.device._context:
            self.device.is_lost = True
        return failure


class Program:
    """Dispatches recorded once. `run()` replays them; `timings()` gives the seconds of each, if made with `timestamps`.

    skip_barrier: leave out the barrier before `barriers[skip_barrier]`, to show that it is needed.
    copies: (source, target) buffers, copied after the last dispatch.
    Raises DeviceError if the device refuses, such as timestamps of a queue that has no clock.
    """

    def __init__(
        self,
        device: RecordingDevice,
        dispatches: Iterable[Dispatch],
        timestamps: bool = False,
        skip_barrier: int | None = None,
        copies: Sequence[tuple[Buffer, Buffer]] = (),
    ):
        self.device = device
        self.dispatches = [device.kernels.fitting(dispatch) for dispatch in dispatches]
        self.barriers = hazard_points(self.dispatches)
        if timestamps and not device.info.timestamp_bits:
            raise DeviceError(
                f"{device.info.name} supports no timestamps on its compute queue; run without timestamps=True and time "
                "whole steps"
            )
        left_out = None if skip_barrier is None else self.barriers[skip_barrier]
        before = set(self.barriers) - {left_out}
        self._timestamps = _native.Timestamps(device._context, len(self.dispatches) + 1) if timestamps else None
        self._has_run = False
        recorder = Recorder(device)
        if self._timestamps is not None:
            recorder.timestamp(self._timestamps, 0)
        for index, dispatch in enumerate(self.dispatches):
            if index in before:
                recorder.compute_barrier()
            recorder.dispatch(dispatch)
            if self._timestamps is not None:
                recorder.timestamp(self._timestamps, index + 1)
        if copies:
            recorder.transfer_barrier()
            for source, target in copies:
                recorder.copy(source.memory, source.offset, target.memory, target.offset, source.num_bytes)
        self._recording = recorder.finish()

    def run(self) -> None:
        """Submit and wait. Raises DeviceLost, DeviceError."""
        self.submit()
        self.wait()

    def submit(self) -> None:
        """Submit without waiting; the device runs submissions in order."""
        self._recording.submit()

    def wait(self) -> None:
        """Wait until it is done. Raises DeviceLost, DeviceError."""
        self._recording.wait()
        self._has_run = True

    def timings(self) -> list[float]:
        """Seconds of each dispatch in the last run, by the device's clock. Raises ValueError without `timestamps` or
        before a run.
        """
        if self._timestamps is None:
            raise ValueError("made without timestamps=True: nothing was measured")
        if not self._has_run:
            raise ValueError("nothing was measured yet: run the program first")
        mask = np.uint64((1 << self.device.info.timestamp_bits) - 1)  # the clock wraps around at 2^bits
        ticks = np.array(self._timestamps.read(), np.uint64)
        return [float(tick & mask) * self.device.info.limits.timestamp_period_ns * 1e-9 for tick in np.diff(ticks)]

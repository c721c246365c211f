"""Dispatches -> one recorded kp.Sequence with the barriers that their reads and writes ask for.

In: `Dispatch`es in order. Out: `Program`, recorded once and run many times. What a dispatch reads and writes is
declared, never guessed: two dispatches get a barrier between them only where one writes bytes that the other reads
or writes.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from .. import _native
from ..errors import DeviceError, DeviceLost
from . import vulkan_constants as vk
from .buffers import Buffer
from .failures import translated
from .interface import Value
from .shaders import interface

RUN_LIMIT_NS = 120 * 10**9  # a step that takes longer than this is taken for lost

STAGE_COMPUTE = vk.VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT
STAGE_TRANSFER = vk.VK_PIPELINE_STAGE_TRANSFER_BIT
STAGE_HOST = vk.VK_PIPELINE_STAGE_HOST_BIT
SHADER_READ, SHADER_WRITE = vk.VK_ACCESS_SHADER_READ_BIT, vk.VK_ACCESS_SHADER_WRITE_BIT
TRANSFER_READ, TRANSFER_WRITE = vk.VK_ACCESS_TRANSFER_READ_BIT, vk.VK_ACCESS_TRANSFER_WRITE_BIT
HOST_READ, HOST_WRITE = vk.VK_ACCESS_HOST_READ_BIT, vk.VK_ACCESS_HOST_WRITE_BIT


@dataclass(frozen=True)
class Dispatch:
    """One run of a kernel.

    shader: variant name in shaders/variants.toml. Bindings: `reads`, then `writes` (a buffer in `writes` may be read
    too). groups: workgroups in x, y, z. constants, push: a value for each specialization constant and each member of
    the push-constant block, by their names in the shader. subgroup_size: required size, 0 = any. flops, label: for
    profiles. constant_words: (constant_id, word) of each constant; push_words: the block's words. Raises DeviceError
    for an unknown shader, an unknown or missing name, or a value that does not fit its type.
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

    def __post_init__(self):
        names = interface(self.shader)
        object.__setattr__(self, "constant_words", names.constant_words(self.constants))
        object.__setattr__(self, "push_words", names.push_words(self.push))

    @property
    def num_bytes(self) -> int:
        """Bytes bound: an upper bound of what is moved."""
        return sum(buffer.num_bytes for buffer in (*self.reads, *self.writes))


def hazard_points(dispatches) -> list[int]:
    """Indices of the dispatches before which a barrier must stand: read after write, write after read, write after
    write on overlapping bytes since the barrier before.
    """
    points, reads, writes = [], [], []
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


class Recorder:
    """Records into one kp.Sequence, with host writes made visible first and results made visible to the host last."""

    def __init__(self, device):
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

    def _barrier(self, from_stage, from_access, to_stage, to_access):
        self.sequence.record(_native.OpBarrier(from_stage, from_access, to_stage, to_access))

    def compute_barrier(self):
        self._barrier(STAGE_COMPUTE, SHADER_READ | SHADER_WRITE, STAGE_COMPUTE, SHADER_READ | SHADER_WRITE)

    def transfer_barrier(self):
        self._barrier(STAGE_COMPUTE, SHADER_WRITE, STAGE_TRANSFER, TRANSFER_READ)

    def dispatch(self, dispatch: Dispatch):
        kernel = self.device.kernels.get(dispatch)
        ranges = [(buffer.memory, buffer.offset, buffer.num_bytes) for buffer in (*dispatch.reads, *dispatch.writes)]
        with translated(f"{self.device.info.name}: {dispatch.shader}"):
            self.sequence.record(_native.OpDispatch(kernel, ranges, list(dispatch.groups), list(dispatch.push_words)))

    def copy(self, source, source_offset, target, target_offset, num_bytes):
        self.sequence.record(_native.OpCopy(source, source_offset, target, target_offset, num_bytes))

    def timestamp(self, timestamps, index):
        self.sequence.record(_native.OpTimestamp(timestamps, index))

    def finish(self) -> "Recording":
        self._barrier(STAGE_COMPUTE | STAGE_TRANSFER, SHADER_WRITE | TRANSFER_WRITE, STAGE_HOST, HOST_READ)
        context = self.device._context
        return Recording(self.device, _native.Submission(context, self.sequence, self.capture), context)


@dataclass
class Recording:
    device: object
    submission: object
    context: object

    def run(self, limit_ns: int = RUN_LIMIT_NS) -> None:
        """Submit and wait, without the GIL. Raises DeviceLost, DeviceError."""
        self.submit(limit_ns)
        self.wait(limit_ns)

    def submit(self, limit_ns: int = RUN_LIMIT_NS) -> None:
        """Hand it to the device, which runs it after what was submitted before. limit_ns: of a run before that is
        not known to be over.
        """
        with self.device.queue_lock, self._lost_is_kept(), translated(f"{self.device.info.name}: running a step"):
            self.submission.submit(limit_ns)

    def wait(self, limit_ns: int = RUN_LIMIT_NS) -> None:
        """Until it is done, without the GIL. Raises DeviceLost, DeviceError."""
        with self._lost_is_kept(), translated(f"{self.device.info.name}: running a step"):
            self.submission.wait(limit_ns)

    @contextmanager
    def _lost_is_kept(self):
        """The device is told that it is lost, where this recording was made on it as it is open now."""
        try:
            yield
        except DeviceLost:
            self.device.is_lost = self.device.is_lost or self.context is self.device._context
            raise


class Program:
    """Dispatches recorded once. `run()` replays them; `timings()` gives seconds per dispatch where `timestamps` was
    asked for.

    skip_barrier: leave out the barrier before `barriers[skip_barrier]`, to show that it is needed.
    copies: (source, target) buffers, copied after the last dispatch.
    Raises DeviceError where the device refuses, such as timestamps of a queue that has no clock.
    """

    def __init__(self, device, dispatches, timestamps: bool = False, skip_barrier: int | None = None, copies=()):
        self.device, self.dispatches = device, [device.kernels.fitting(dispatch) for dispatch in dispatches]
        self.barriers = hazard_points(self.dispatches)
        if timestamps and not device.info.timestamp_bits:
            raise DeviceError(
                f"{device.info.name} counts no timestamps on its compute queue; run without timestamps=True and time "
                f"whole steps"
            )
        left_out = None if skip_barrier is None else self.barriers[skip_barrier]
        before = set(self.barriers) - {left_out}
        self._timestamps = _native.Timestamps(device._context, len(self.dispatches) + 1) if timestamps else None
        self._has_run = False
        recorder = Recorder(device)
        if timestamps:
            recorder.timestamp(self._timestamps, 0)
        for index, dispatch in enumerate(self.dispatches):
            if index in before:
                recorder.compute_barrier()
            recorder.dispatch(dispatch)
            if timestamps:
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
        """Hand it to the device, which runs it after what was submitted before."""
        self._recording.submit()

    def wait(self) -> None:
        """Until it is done. Raises DeviceLost, DeviceError."""
        self._recording.wait()
        self._has_run = True

    def timings(self) -> list[float]:
        """Seconds of each dispatch of the last run, from the device's own clock. Raises ValueError without
        `timestamps` or before a run.
        """
        if self._timestamps is None:
            raise ValueError("made without timestamps=True: nothing was measured")
        if not self._has_run:
            raise ValueError("nothing was measured yet: run the program first")
        mask = np.uint64((1 << self.device.info.timestamp_bits) - 1)  # the clock starts again at 2^bits
        ticks = np.array(self._timestamps.read(), np.uint64)
        return [float(tick & mask) * self.device.info.limits.timestamp_period_ns * 1e-9 for tick in np.diff(ticks)]

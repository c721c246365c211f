"""A step of one shape, recorded as one or several programs.

In: the dispatches of a graph. Out: `RecordedStep`, submitted and waited for as a whole. A program is recorded, and its
pipelines are made, when it is first submitted: while the pipelines of the later layers and of the output are made, the
device already runs the earlier ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..device import host_memory
from ..device.buffers import Buffer
from ..device.context import Device
from ..device.dispatch import Dispatch, Program
from ..ops.op import MOST_FLOPS, TensorView
from .builder import Graph, Value

SUBMISSION_FLOPS = MOST_FLOPS  # longer steps are split into several submissions


@dataclass(frozen=True)
class Recording:
    """How programs are recorded. copies: (source, target) after the last dispatch. timestamps, skip_barrier: as in
    `Program`.
    """

    device: Device
    copies: Sequence[tuple[Buffer, Buffer]] = ()
    timestamps: bool = False
    skip_barrier: int | None = None


@dataclass
class RecordedStep:
    """A step shape.

    views: where values are. results: the graph's results, where the host reads them. parts: the dispatches of each
    program. is_tuned: every kernel of it was measured. num_runs: how often it ran.
    """

    graph: Graph
    views: dict[Value, TensorView]
    results: list[TensorView]
    parts: list[list[Dispatch]]
    recording: Recording
    is_tuned: bool
    num_runs: int = 0
    _programs: list[Program] = field(default_factory=list)

    @property
    def programs(self) -> list[Program]:
        """All programs. Raises what recording raises."""
        for index in range(len(self.parts)):
            self._program(index)
        return self._programs

    @property
    def dispatches(self) -> list[Dispatch]:
        """The dispatches of all programs, in order."""
        return [dispatch for program in self.programs for dispatch in program.dispatches]

    def submit(self) -> None:
        """Begin the step. If a program cannot be recorded or submitted, waits for those before it. Raises DeviceLost,
        DeviceError, OutOfMemory.
        """
        is_new = len(self._programs) < len(self.parts)
        for index in range(len(self.parts)):
            try:
                self._program(index).submit()
            except BaseException:
                for before in self._programs[:index]:  # they read the step buffer, which the next step writes
                    before.wait()
                raise
        if is_new:
            host_memory.trim()

    def wait(self) -> None:
        """Wait until the step is done. Raises DeviceLost, DeviceError."""
        for program in self._programs:
            program.wait()

    def _program(self, index: int) -> Program:
        """Programs are recorded in order."""
        if index == len(self._programs):
            how = self.recording
            copies = how.copies if index == len(self.parts) - 1 else ()
            self._programs.append(Program(how.device, self.parts[index], how.timestamps, how.skip_barrier, copies))
        return self._programs[index]


def submissions(dispatches: Sequence[Dispatch]) -> list[list[Dispatch]]:
    """Dispatches in groups of at most SUBMISSION_FLOPS, but at least one each."""
    parts: list[list[Dispatch]] = [[]]
    flops = 0
    for dispatch in dispatches:
        if flops and flops + dispatch.flops > SUBMISSION_FLOPS:
            parts.append([])
            flops = 0
        parts[-1].append(dispatch)
        flops += dispatch.flops
    return parts

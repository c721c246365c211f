"""The memory through which the host writes what it cannot see: it fills one half while the device copies the other.

In: buffers of device memory, and a function that writes their bytes. Out: copies on the device's queue.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from .. import _native
from .buffers import Buffer
from .dispatch import Recorder, Recording, RecordingDevice

PIECE_BYTES = 8 << 20  # of one half: what is written at a time


class UploadDevice(RecordingDevice, Protocol):
    """The part of `context.Device` that uploads use."""

    def memory(self, num_bytes: int, kind: str) -> _native.Memory:
        """Allocate. kind as in `Device.memory`. Raises OutOfMemory."""
        ...


class UploadRing:
    """Two halves of host memory, allocated on first use and then kept. Several threads may write."""

    def __init__(self, device: UploadDevice):
        self.device = device
        self._lock = threading.Lock()
        self._halves: list[_native.Memory] = []
        self._running: list[Recording | None] = [None, None]  # the copy of each half that was submitted last
        self._next = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of both halves."""
        return sum(memory.size for memory in self._halves)

    def write(self, buffers: Sequence[Buffer], fill: Callable[[list[np.ndarray]], None]) -> None:
        """Let `fill` write the bytes of `buffers`, and submit their copies. Returns before these are done.

        A buffer may be empty. A half grows if `buffers` together have more than PIECE_BYTES. Raises OutOfMemory,
        DeviceLost, DeviceError.
        """
        num_bytes = sum(buffer.num_bytes for buffer in buffers)
        with self._lock:
            half = self._next
            self._next = 1 - half
            self._wait(half)
            memory = self._half(half, num_bytes)
            whole = np.frombuffer(memoryview(memory), np.uint8)
            ends = np.cumsum([buffer.num_bytes for buffer in buffers]).tolist()
            fill([whole[end - buffer.num_bytes : end] for end, buffer in zip(ends, buffers)])
            recorder = Recorder(self.device)
            for end, buffer in zip(ends, buffers):
                if buffer.num_bytes:
                    recorder.copy(memory, end - buffer.num_bytes, buffer.memory, buffer.offset, buffer.num_bytes)
            recording = recorder.finish()
            recording.submit()
            self._running[half] = recording

    def finish(self) -> None:
        """Wait for all copies. Raises DeviceLost, DeviceError."""
        with self._lock:
            for half in range(2):
                self._wait(half)

    def clear(self) -> None:
        """Drop the memory. Copies that still run keep it."""
        with self._lock:
            self._halves.clear()
            self._running = [None, None]

    def _wait(self, half: int) -> None:
        recording, self._running[half] = self._running[half], None
        if recording is not None:
            recording.wait()

    def _half(self, half: int, num_bytes: int) -> _native.Memory:
        while len(self._halves) < 2:
            self._halves.append(self.device.memory(PIECE_BYTES, "step"))
        if self._halves[half].size < num_bytes:
            self._halves[half] = self.device.memory(num_bytes, "step")
        return self._halves[half]

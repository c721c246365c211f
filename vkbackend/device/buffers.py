"""Ranges of device memory, and arenas that hand them out.

In: a `Device`. Out: `Buffer` (memory, offset, bytes), which dispatches bind and hazards are derived from.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from .. import _native
from .device_info import DeviceInfo, DeviceLimits

ARENA_BYTES = 64 << 20
SMALLEST_BYTES = 1 << 20  # of an allocation, even if fewer bytes are still expected


@dataclass(frozen=True)
class Buffer:
    """Bytes offset ... offset + num_bytes - 1 of one allocation."""

    memory: _native.Memory
    offset: int
    num_bytes: int

    def slice(self, offset: int, num_bytes: int) -> "Buffer":
        """A part of this buffer. Raises ValueError if it lies outside."""
        if offset < 0 or offset + num_bytes > self.num_bytes:
            raise ValueError(f"bytes {offset}..{offset + num_bytes} lie outside a buffer of {self.num_bytes}")
        return Buffer(self.memory, self.offset + offset, num_bytes)

    def array(self, dtype: DTypeLike, shape: tuple[int, ...]) -> np.ndarray:
        """A view of host-visible memory: the next program that runs sees what is written to it. Raises ValueError or
        BufferError if the memory is not visible to the host.
        """
        return np.frombuffer(memoryview(self.memory), dtype, int(np.prod(shape)), self.offset).reshape(shape)

    def overlaps(self, other: "Buffer") -> bool:
        """Whether the two share a byte."""
        return (
            self.memory is other.memory
            and self.offset < other.offset + other.num_bytes
            and other.offset < self.offset + self.num_bytes
        )


class Allocator(Protocol):
    """The part of `context.Device` that arenas allocate with."""

    info: DeviceInfo

    def memory(self, num_bytes: int, kind: str) -> _native.Memory:
        """Allocate. kind as in `Device.memory`. Raises OutOfMemory."""
        ...


class Arena:
    """Hands out aligned buffers from a few large allocations. kind as in `Device.memory`.

    A buffer takes room in any allocation so far; if none has enough, a new one is made, which holds a whole number of
    buffers of that size. A buffer never crosses two allocations, and none is larger than one binding can hold
    (maxStorageBufferRange): owners split larger things. After `expect`, an allocation is no larger than the bytes still
    to come.
    """

    def __init__(self, device: Allocator, kind: str, chunk_bytes: int = ARENA_BYTES):
        limits = device.info.limits
        self.device = device
        self.kind = kind
        self.alignment = alignment(limits)
        self.largest = limits.max_storage_buffer_range
        self.chunk_bytes = min(chunk_bytes, self.largest)
        self.memories: list[_native.Memory] = []
        self._used: list[int] = []  # of each allocation
        self._handed_out = 0
        self._expected: int | None = None

    def expect(self, num_bytes: int) -> None:
        """Announce that about `num_bytes` more will be allocated."""
        self._expected = self._handed_out + num_bytes

    def allocate(self, num_bytes: int) -> Buffer:
        """A new buffer. Raises OutOfMemory if the device has no more, ValueError if one binding cannot hold it."""
        size = aligned(num_bytes, self.alignment)
        if num_bytes > self.largest:
            raise ValueError(
                f"a buffer of {num_bytes} bytes is larger than one binding of this device ({self.largest}); split it "
                "by rows"
            )
        at = self._with_room(size)
        buffer = Buffer(self.memories[at], self._used[at], max(num_bytes, 16))
        self._used[at] += size
        self._handed_out += size
        return buffer

    def _with_room(self, size: int) -> int:
        """Index of an allocation with room for `size` bytes."""
        for at, memory in enumerate(self.memories):
            if self._used[at] + size <= memory.size:
                return at
        self.memories.append(self.device.memory(max(size, self._next_chunk(size)), self.kind))
        self._used.append(0)
        return len(self.memories) - 1

    def _next_chunk(self, size: int) -> int:
        whole = self.chunk_bytes // size * size or size
        if self._expected is None:
            return whole
        return min(whole, max(self._expected - self._handed_out, SMALLEST_BYTES))

    @property
    def num_bytes(self) -> int:
        """Bytes of all allocations."""
        return sum(memory.size for memory in self.memories)


def alignment(limits: DeviceLimits) -> int:
    """Bytes of which every buffer's offset is a multiple."""
    return max(limits.min_storage_buffer_offset_alignment, limits.min_texel_buffer_offset_alignment, 64)


def aligned(num_bytes: int, multiple: int) -> int:
    """Bytes that a buffer takes in an arena."""
    return -(-max(num_bytes, 16) // multiple) * multiple

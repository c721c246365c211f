"""Ranges of device memory, and arenas that hand them out.

In: a `Device`. Out: `Buffer` (memory, offset, bytes), which dispatches bind and hazards are derived from.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from .. import _native
from .device_info import DeviceInfo

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

    def memory(self, num_bytes: int, kind: str) -> _native.Memory: ...


class Arena:
    """Hands out aligned buffers from a few large allocations. kind as in `Device.memory`.

    A new allocation starts when the current one is full. A buffer never crosses two allocations, and none is larger
    than one binding can hold (maxStorageBufferRange): owners split larger things. After `expect`, the last allocation
    is no larger than the bytes still to come.
    """

    def __init__(self, device: Allocator, kind: str, chunk_bytes: int = ARENA_BYTES):
        limits = device.info.limits
        self.device = device
        self.kind = kind
        self.alignment = max(limits.min_storage_buffer_offset_alignment, limits.min_texel_buffer_offset_alignment, 64)
        self.largest = limits.max_storage_buffer_range
        self.chunk_bytes = min(chunk_bytes, self.largest)
        self.memories: list[_native.Memory] = []
        self._used = 0  # of the last allocation
        self._handed_out = 0
        self._expected: int | None = None

    def expect(self, num_bytes: int) -> None:
        """Announce that about `num_bytes` more will be allocated."""
        self._expected = self._handed_out + num_bytes

    def allocate(self, num_bytes: int) -> Buffer:
        """A new buffer. Raises OutOfMemory if the device has no more, ValueError if one binding cannot hold it."""
        size = -(-max(num_bytes, 16) // self.alignment) * self.alignment
        if num_bytes > self.largest:
            raise ValueError(
                f"a buffer of {num_bytes} bytes is larger than one binding of this device ({self.largest}); split it "
                "by rows"
            )
        if not self.memories or self._used + size > self.memories[-1].size:
            self.memories.append(self.device.memory(max(size, self._next_chunk()), self.kind))
            self._used = 0
        buffer = Buffer(self.memories[-1], self._used, max(num_bytes, 16))
        self._used += size
        self._handed_out += size
        return buffer

    def _next_chunk(self) -> int:
        if self._expected is None:
            return self.chunk_bytes
        return min(self.chunk_bytes, max(self._expected - self._handed_out, SMALLEST_BYTES))

    @property
    def num_bytes(self) -> int:
        """Bytes of all allocations."""
        return sum(memory.size for memory in self.memories)

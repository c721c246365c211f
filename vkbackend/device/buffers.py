"""Ranges of device memory, and arenas that hand them out.

In: a `Device`. Out: `Buffer` (memory, offset, bytes): what a dispatch binds, what hazards are derived from.
"""

from dataclasses import dataclass

import numpy as np

ARENA_BYTES = 64 << 20
SMALLEST_BYTES = 1 << 20  # of an allocation, where less than that is still expected


@dataclass(frozen=True)
class Buffer:
    """Bytes offset ... offset + num_bytes - 1 of one allocation."""

    memory: object
    offset: int
    num_bytes: int

    def slice(self, offset: int, num_bytes: int) -> "Buffer":
        if offset < 0 or offset + num_bytes > self.num_bytes:
            raise ValueError(f"bytes {offset}..{offset + num_bytes} lie outside a buffer of {self.num_bytes}")
        return Buffer(self.memory, self.offset + offset, num_bytes)

    def array(self, dtype, shape) -> np.ndarray:
        """A view of host-visible memory: writes are seen by the next program that runs. Raises ValueError where it
        is not visible.
        """
        return np.frombuffer(self.memory, dtype, int(np.prod(shape)), self.offset).reshape(shape)

    def overlaps(self, other: "Buffer") -> bool:
        return (
            self.memory is other.memory
            and self.offset < other.offset + other.num_bytes
            and other.offset < self.offset + self.num_bytes
        )


class Arena:
    """Hands out aligned buffers from a few large allocations. kind as in `Device.memory`.

    A new allocation begins where the current one is full; one buffer never crosses two, and none is larger than what
    one binding can hold (maxStorageBufferRange): larger things are split by their owner. Where it is said how much
    will be asked for (`expect`), the last allocation is no larger than what is left to come.
    """

    def __init__(self, device, kind: str, chunk_bytes: int = ARENA_BYTES):
        limits = device.info.limits
        self.device, self.kind = device, kind
        self.alignment = max(limits.min_storage_buffer_offset_alignment, limits.min_texel_buffer_offset_alignment, 64)
        self.largest = limits.max_storage_buffer_range
        self.chunk_bytes = min(chunk_bytes, self.largest)
        self.memories = []
        self._used = 0  # of the last allocation
        self._handed_out, self._expected = 0, None

    def expect(self, num_bytes: int) -> None:
        """About so many bytes more will be asked for."""
        self._expected = self._handed_out + num_bytes

    def allocate(self, num_bytes: int) -> Buffer:
        """Raises OutOfMemory where the device has no more, ValueError where no binding could hold it."""
        size = -(-max(num_bytes, 16) // self.alignment) * self.alignment
        if num_bytes > self.largest:
            raise ValueError(
                f"a buffer of {num_bytes} bytes is larger than one binding of this device ({self.largest}); split it "
                f"by rows"
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
        return sum(memory.size for memory in self.memories)

"""Timeouts, retries and sizes of requests to a registry."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TransferLimits:
    """tries: attempts in a row without progress.

    Waits between attempts start at `backoff_seconds` and double; waits that a registry asks for are respected. Both are
    at most `longest_wait_seconds`. A connection without data for `stall_seconds` is closed.
    """

    tries: int = 6
    backoff_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    connect_seconds: float = 15.0
    stall_seconds: float = 30.0
    parallel: int = 8  # parts of a blob fetched at a time
    parts: int = 16  # parts of a blob, within the sizes below
    least_part_bytes: int = 32 << 20
    largest_part_bytes: int = 1 << 30
    upload_part_bytes: int = 64 << 20

    def wait_seconds(self, failures: int, asked: float | None = None) -> float:
        """Wait before the next attempt, after `failures` (at least 1) in a row. asked: wait the registry asks for."""
        own = self.backoff_seconds * 2 ** (failures - 1)
        return min(self.longest_wait_seconds, own if asked is None else max(asked, 0.0))

    def part_bytes(self, total: int) -> int:
        """Size of the parts of a blob."""
        return min(max(-(-total // self.parts), self.least_part_bytes), self.largest_part_bytes)


DEFAULT = TransferLimits()

"""How patient we are with a registry, and how much is asked for at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """tries: in a row without a new byte. Waits between tries begin with `backoff_seconds` and double; those that a
    registry asks for are kept up to `longest_wait_seconds`. A connection on which nothing comes for `stall_seconds`
    is given up.
    """

    tries: int = 6
    backoff_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    connect_seconds: float = 15.0
    stall_seconds: float = 30.0
    parallel: int = 8  # parts of a blob at a time
    parts: int = 16  # of a blob, as far as the sizes below allow
    least_part_bytes: int = 32 << 20
    largest_part_bytes: int = 1 << 30
    upload_part_bytes: int = 64 << 20

    def wait_seconds(self, failures: int, asked: float | None = None) -> float:
        """Before the next try, after so many failures in a row (from 1 on)."""
        own = self.backoff_seconds * 2 ** (failures - 1)
        return min(self.longest_wait_seconds, own if asked is None else max(asked, 0.0))

    def part_bytes(self, total: int) -> int:
        return min(max(-(-total // self.parts), self.least_part_bytes), self.largest_part_bytes)


DEFAULT = Limits()

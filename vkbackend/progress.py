"""How far a load is. Written by the thread that loads, read by whoever shows it."""

from dataclasses import dataclass


@dataclass
class LoadProgress:
    """Bytes of weights, as they are in the file, that are where they are computed with; of `total` (0 until that is
    known). A load that is tried again, with fewer layers on devices, begins at 0 again."""

    total: int = 0
    completed: int = 0

    def begin(self, total: int) -> None:
        self.completed = 0
        self.total = total

    def add(self, num_bytes: int) -> None:
        self.completed = min(self.completed + num_bytes, self.total)

    def end(self) -> None:
        """All that was to be brought there is there, whatever stays in the file."""
        self.completed = self.total

"""The progress of loading a model. The loading thread writes it, other threads read it."""

from dataclasses import dataclass


@dataclass
class LoadProgress:
    """Bytes of weights, in the file's formats.

    total: of all weights; 0 until it is known
    completed: of the weights that are in place. Begins at 0 again if loading is retried with fewer layers on devices.
    """

    total: int = 0
    completed: int = 0

    def begin(self, total: int) -> None:
        """Start a load, or start it again."""
        self.completed = 0
        self.total = total

    def add(self, num_bytes: int) -> None:
        """Count bytes that are in place."""
        self.completed = min(self.completed + num_bytes, self.total)

    def end(self) -> None:
        """Finish a load. Weights that stay in the file count as loaded."""
        self.completed = self.total

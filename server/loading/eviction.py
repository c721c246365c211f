"""Which loaded model is unloaded to make room for another one, by Ollama's rules."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Resident:
    """A loaded model, as the rules see it. keep_alive: nanoseconds, negative for forever."""

    name: str
    num_users: int
    keep_alive: int


def first_to_unload(residents: Sequence[Resident]) -> int | None:
    """The index of the model to unload, None if there are none: unused models before used ones, among them the one
    with the shortest keep_alive (forever is the longest), among equals the first by name.
    """

    def priority(index: int) -> tuple[bool, int, str]:
        resident = residents[index]
        return resident.num_users > 0, resident.keep_alive if resident.keep_alive >= 0 else 1 << 63, resident.name

    return min(range(len(residents)), key=priority, default=None)

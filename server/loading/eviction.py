"""Which loaded model gives way to another one, by Ollama's rules."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Resident:
    """A loaded model as the scheduler sees it. keep_alive: nanoseconds, negative for ever."""

    name: str
    num_users: int
    keep_alive: int


def first_to_unload(residents: Sequence[Resident]) -> int | None:
    """The index of who gives way: one that nobody uses, else one that somebody does; among them who would be kept
    for the shortest time, for ever being the longest; among equals by name.
    """

    def wish_to_stay(index: int):
        resident = residents[index]
        return resident.num_users > 0, resident.keep_alive if resident.keep_alive >= 0 else 1 << 63, resident.name

    return min(range(len(residents)), key=wish_to_stay, default=None)

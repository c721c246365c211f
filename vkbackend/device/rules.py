"""Ollama's rules for devices: which are alike, which come first, how much of each stays free, which model gives way.

In: what is known of each device (`Gpu`) and of each loaded model (`Resident`). Out: groups, orders, answers. Pure functions: nothing is opened
or asked here, so that recorded cases can be compared with them. Rules of libraries that this backend does not have (CUDA, ROCm, Metal) are
kept, as a device may be seen through several of them.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Iterable, Sequence

MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """One device as one library shows it; `id` is unique within the library. Memory in bytes; graph: what is already allocated there for
    the intermediates of the model that is being placed. is_software: a driver that computes on the host's CPU.
    largest_binding: bytes that a shader sees at once. index: its place in the loader's list."""

    id: str
    library: str = "Vulkan"
    name: str = ""
    free: int = 0
    total: int = 0
    is_integrated: bool = False
    graph: int = 0
    pci_id: str = ""
    compute: tuple[int, int] = (0, 0)
    driver_major: int = 0
    is_software: bool = False
    largest_binding: int = 0
    index: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.library, self.id


class Comparison(Enum):
    UNIQUE = "unique"
    SAME_BACKEND = "same_backend"  # one device, listed twice by its library
    DUPLICATE = "duplicate"        # one device, listed by two libraries


def minimum_memory(library: str) -> int:
    """Bytes of a device that no model gets: drivers and contexts take about that much."""
    return (512 if library == "Metal" else 457) * MIB


def flash_attention_supported(gpus: Iterable[Gpu]) -> bool:
    """Whether every one of these can do it."""
    return all(gpu.library in ("cpu", "ROCm", "Vulkan") or gpu.name == "Metal"
               or gpu.library == "CUDA" and gpu.driver_major >= 7 and gpu.compute != (7, 2) for gpu in gpus)


def compare(one: Gpu, other: Gpu) -> Comparison:
    """By the place on the PCI bus; by library and id where that is not told."""
    if one.pci_id != other.pci_id or not one.pci_id and one.key != other.key:
        return Comparison.UNIQUE
    return Comparison.SAME_BACKEND if one.library == other.library else Comparison.DUPLICATE


def is_preferred(gpu: Gpu) -> bool:
    """Whether a device that another library lists, too, is used through this one."""
    return gpu.library in ("CUDA", "ROCm")


def by_performance(gpus: Iterable[Gpu]) -> list[list[Gpu]]:
    """Dedicated ones and integrated ones apart, in the order in which they come."""
    return _grouped(gpus, lambda gpu: gpu.is_integrated)


def by_library(gpus: Iterable[Gpu]) -> list[list[Gpu]]:
    return _grouped(gpus, lambda gpu: gpu.library)


def _grouped(gpus, kind) -> list[list[Gpu]]:
    groups: dict[object, list[Gpu]] = {}
    for gpu in gpus:
        groups.setdefault(kind(gpu), []).append(gpu)
    return list(groups.values())


def sorted_for_layout(gpus: Iterable[Gpu]) -> list[Gpu]:
    """Dedicated ones before integrated ones, then those with more free memory."""
    return sorted(gpus, key=lambda gpu: (gpu.is_integrated, -gpu.free))


@dataclass(frozen=True)
class Resident:
    """A loaded model as the scheduler sees it. keep_alive: nanoseconds, negative for ever."""

    name: str
    num_users: int
    keep_alive: int


def first_to_unload(residents: Sequence[Resident]) -> int | None:
    """The index of who gives way: one that nobody uses, else one that somebody does; among them who would be kept for the shortest time, for
    ever being the longest; among equals by name."""
    def wish_to_stay(index: int):
        resident = residents[index]
        return resident.num_users > 0, resident.keep_alive if resident.keep_alive >= 0 else 1 << 63, resident.name

    return min(range(len(residents)), key=wish_to_stay, default=None)


def free_beside(free: int, total: int, taken: int) -> int:
    """A device's free bytes: what is left of the whole beside what was taken here, or what its driver says where that is less. A driver that does
    not see what was allocated a moment ago says too much."""
    return min(free, max(0, total - taken))

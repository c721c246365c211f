"""Ollama's rules for devices: which are alike, which come first, how much of each stays free.

In: what is known of each device (`Gpu`). Out: groups and orders, as pure functions, so that recorded cases can be
compared with them; `usable()`, the devices of this machine that models may be placed on.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from .. import settings
from ..device import selection
from ..device.context import Device
from ..device.discover import DeviceInfo, DeviceType

MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """One device as one library shows it; `id` is unique within the library. Memory in bytes; graph: what is already
    allocated there for the intermediates of the model that is being placed. is_software: a driver that computes on
    the host's CPU. largest_binding: bytes that a shader sees at once. index: its place in the loader's list.
    """

    id: str
    library: str = "Vulkan"
    name: str = ""
    free: int = 0
    total: int = 0
    is_integrated: bool = False
    graph: int = 0
    is_software: bool = False
    largest_binding: int = 0
    index: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.library, self.id


def minimum_memory(library: str) -> int:
    """Bytes of a device that no model gets: drivers and contexts take about that much."""
    return (512 if library == "Metal" else 457) * MIB


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


def usable() -> list[Gpu]:
    """What models may be placed on, the preferred device first, with the memory that is free now; empty where they
    run on the CPU.
    """
    return [_as_gpu(info, device) for info, device in selection.usable()]


def _as_gpu(info: DeviceInfo, device: Device | None) -> Gpu:
    """What shares the host's memory is slower than what has its own: it counts as integrated."""
    shares = info.is_unified and not settings.get("VKBACKEND_FORCE_DISCRETE")
    return Gpu(
        info.uuid,
        name=info.name,
        free=device.free_memory() if device else info.memory_free,
        total=info.memory_total,
        is_integrated=shares,
        is_software=info.type is DeviceType.CPU,
        largest_binding=info.limits.max_storage_buffer_range,
        index=info.index,
    )

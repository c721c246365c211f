"""Ollama's rules for devices: how they are grouped and ordered, and how much of their memory stays free.

In: what is known about each device (`Gpu`). Out: groups and orders, as pure functions, which tests compare with
recorded cases; `usable()`, the devices of this machine that models can be placed on.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from .. import settings
from ..device import selection
from ..device.context import Device
from ..device.device_info import DeviceInfo, DeviceType

MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """A device as seen by a library. `id` is unique within the library. Sizes are in bytes.

    graph: memory already allocated for intermediates of the model that is being placed. is_software: the driver runs on
    the host's CPU. largest_binding: most bytes that one binding of a shader can have. lanes: invocations of a subgroup.
    index: position in the Vulkan loader's list.
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
    lanes: int = 1
    index: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the device: (library, id)."""
        return self.library, self.id


def minimum_memory(library: str) -> int:
    """Bytes of a device that are not used for models: about what drivers and contexts take."""
    return (512 if library == "Metal" else 457) * MIB


def by_performance(gpus: Iterable[Gpu]) -> list[list[Gpu]]:
    """Dedicated and integrated devices as two groups, in the given order."""
    return _grouped(gpus, lambda gpu: gpu.is_integrated)


def by_library(gpus: Iterable[Gpu]) -> list[list[Gpu]]:
    """Group GPUs by the library that runs them."""
    return _grouped(gpus, lambda gpu: gpu.library)


def _grouped(gpus: Iterable[Gpu], kind: Callable[[Gpu], Hashable]) -> list[list[Gpu]]:
    groups: dict[Hashable, list[Gpu]] = {}
    for gpu in gpus:
        groups.setdefault(kind(gpu), []).append(gpu)
    return list(groups.values())


def sorted_for_layout(gpus: Iterable[Gpu]) -> list[Gpu]:
    """Dedicated devices before integrated ones, then by free memory, most first."""
    return sorted(gpus, key=lambda gpu: (gpu.is_integrated, -gpu.free))


def usable() -> list[Gpu]:
    """The devices that models can be placed on, the preferred one first, with their free memory; empty if models run on
    the CPU.
    """
    return [_as_gpu(info, device) for info, device in selection.usable()]


def _as_gpu(info: DeviceInfo, device: Device | None) -> Gpu:
    """A device that shares the host's memory counts as integrated: it is slower than one with its own."""
    shares = info.is_unified and not settings.get("VKBACKEND_FORCE_DISCRETE")
    return Gpu(
        info.uuid,
        name=info.name,
        free=device.free_memory() if device else info.memory_free,
        total=info.memory_total,
        is_integrated=shares,
        is_software=info.type is DeviceType.CPU,
        largest_binding=info.limits.max_storage_buffer_range,
        lanes=info.subgroup_size,
        index=info.index,
    )

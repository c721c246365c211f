"""The choice of devices among those that `discover` lists: `choose(...) -> Choice`, with the reasons in words."""

from dataclasses import dataclass

from ..errors import NoDevice
from .device_info import DeviceInfo, DeviceType

# Dedicated GPUs first, software renderers last.
PREFERENCE = [DeviceType.DISCRETE, DeviceType.VIRTUAL, DeviceType.INTEGRATED, DeviceType.OTHER, DeviceType.CPU]


@dataclass(frozen=True)
class Choice:
    """The preferred device and, for every device, why it was chosen or not. usable: all devices that models may be
    placed on, in order of preference.
    """

    device: DeviceInfo
    reasons: dict[int, str]
    usable: list[DeviceInfo]


def choose(devices: list[DeviceInfo], visible: str = "") -> Choice:
    """Choose by type: discrete, virtual, integrated, other, and among equals the one with more memory. CPU devices are
    used only if they are named in `visible` (GGML_VK_VISIBLE_DEVICES: comma-separated indices), or if there is nothing
    else; then only the best one. Devices with a problem are never chosen.

    Raises NoDevice if no device is left.
    """
    reasons = {}
    named = _indices(visible, devices)
    left = []
    for device in devices:
        if device.problem:
            reasons[device.index] = f"cannot be used: {device.problem}"
        elif named is not None and device.index not in named:
            reasons[device.index] = f"not in GGML_VK_VISIBLE_DEVICES={visible}"
        else:
            left.append(device)
    if named is None and any(not device.is_cpu for device in left):
        for device in [device for device in left if device.is_cpu]:
            reasons[device.index] = "a CPU device, and a GPU is there; name it in GGML_VK_VISIBLE_DEVICES to use it"
            left.remove(device)
    if not left:
        broken = "; ".join(f"{device.name} cannot be used: {device.problem}" for device in devices if device.problem)
        if broken and named is None:
            raise NoDevice(
                f"no Vulkan device can be used ({broken}); install your GPU's driver, and see `vkbackend devices`"
            )
        raise NoDevice(
            f"no Vulkan device is left: GGML_VK_VISIBLE_DEVICES={visible!r} of {len(devices)} found; see `vkbackend "
            f"devices`"
            if devices
            else "no Vulkan device was found; see `vulkaninfo --summary`"
        )
    usable = sorted(left, key=lambda device: (PREFERENCE.index(device.type), -device.memory_total, device.index))
    best = usable[0]
    for device in usable[1:]:
        reasons[device.index] = f"{best.type.name.lower()} device {best.index} comes first"
    if named is not None:
        why = "named in GGML_VK_VISIBLE_DEVICES"
    elif len(devices) == 1:
        why = "the only device"
    else:
        why = "best by type and memory"
    reasons[best.index] = f"preferred ({why})"
    if named is None and best.is_cpu:
        usable = [best]  # several software drivers would share one CPU
    return Choice(best, reasons, usable)


def _indices(visible: str, devices: list[DeviceInfo]) -> set[int] | None:
    if not visible.strip():
        return None
    try:
        return {int(part) for part in visible.split(",") if part.strip()}
    except ValueError:
        raise NoDevice(
            f"GGML_VK_VISIBLE_DEVICES={visible!r} is not a list of device indices such as 0,1; "
            f"there are {len(devices)}: see `vkbackend devices`"
        ) from None

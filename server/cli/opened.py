"""Opens a device for commands that work on devices themselves (`check`, `bench`).

In: an index as `vkbackend devices` shows it, or none. Out: an open `Device`, closed at the block's end.
"""

from contextlib import contextmanager
from typing import Iterator

from vkbackend import settings
from vkbackend.device.context import Device
from vkbackend.device.discover import DeviceInfo, choose, list_devices
from vkbackend.errors import NoDevice


def select(index: int | None) -> DeviceInfo:
    """The device of an index, or the one that models run on with OLLAMA_VULKAN=1. Raises NoDevice."""
    devices = list_devices()
    if index is None:
        return choose(devices, settings.get("GGML_VK_VISIBLE_DEVICES")).device
    for device in devices:
        if device.index == index:
            return device
    there = ", ".join(str(device.index) for device in devices) or "none"
    raise NoDevice(f"there is no device {index}; there are: {there}. See `vkbackend devices`")


@contextmanager
def opened(info: DeviceInfo) -> Iterator[Device]:
    device = Device(info, force_discrete=settings.get("VKBACKEND_FORCE_DISCRETE"))
    try:
        yield device
    finally:
        device.close()

"""Failures of Vulkan and Kompute as exceptions of this package."""

from .. import _native
from ..errors import DeviceError, DeviceLost, OutOfMemory
from . import vulkan_constants as vk

OUT_OF_MEMORY = (vk.VK_ERROR_OUT_OF_HOST_MEMORY, vk.VK_ERROR_OUT_OF_DEVICE_MEMORY)

LOST = (vk.VK_ERROR_DEVICE_LOST, vk.VK_TIMEOUT)


class translated:
    """Turns the extension's VulkanError into the project's errors, with what was being done in front."""

    def __init__(self, doing: str):
        self.doing = doing

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if kind is not _native.VulkanError:
            return
        text, result = error.args
        if result in OUT_OF_MEMORY:
            raise OutOfMemory(
                f"{self.doing}: {text}; close other programs, or use a smaller model, context or batch"
            ) from error
        if result in LOST:
            raise DeviceLost(
                f"{self.doing}: {text}; the driver reset the device or a step took too long: see the kernel's log "
                f"(dmesg)"
            ) from error
        raise DeviceError(f"{self.doing}: {text}") from error

"""Failures of Vulkan and Kompute as exceptions of this package."""

from types import TracebackType

from .. import _native
from ..errors import DeviceError, DeviceLost, OutOfMemory, VkbackendError
from . import vulkan_constants as vk

OUT_OF_MEMORY = (vk.VK_ERROR_OUT_OF_HOST_MEMORY, vk.VK_ERROR_OUT_OF_DEVICE_MEMORY)

LOST = (vk.VK_ERROR_DEVICE_LOST, vk.VK_TIMEOUT)


def as_device_error(error: _native.VulkanError, doing: str) -> VkbackendError:
    """This package's error for one of the extension. doing: what was being done, for the error's text."""
    text, result = error.args
    if result in OUT_OF_MEMORY:
        return OutOfMemory(f"{doing}: {text}; close other programs, or use a smaller model, context or batch")
    if result in LOST:
        return DeviceLost(
            f"{doing}: {text}; the driver reset the device or a step took too long: see the kernel's log (dmesg). The "
            "next call opens the device again"
        )
    return DeviceError(f"{doing}: {text}")


class translated:
    """Context manager that turns the extension's VulkanError into this package's errors. doing: what was being done,
    for the error's text.
    """

    def __init__(self, doing: str):
        self.doing = doing

    def __enter__(self) -> "translated":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, _native.VulkanError):
            raise as_device_error(error, self.doing) from error

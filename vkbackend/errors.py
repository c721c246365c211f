"""Errors that a user may see. Each text says what is wrong, with which thing, and what to do next."""


def brief(value: object) -> str:
    """The repr of a value, shortened for an error text."""
    shown = f"{value:#x}" if isinstance(value, int) and abs(value) >= 1 << 200 else repr(value)
    return shown if len(shown) <= 60 else shown[:60] + "..."


class VkbackendError(Exception):
    """Base of all errors raised on purpose. The text can be shown to a user."""


class GGUFError(VkbackendError):
    """A file cannot be read, is not a GGUF file, is truncated, or has a contradictory header."""


class UnsupportedModel(VkbackendError):
    """The file is valid, but its architecture or a tensor type is not implemented."""


class TokenizerError(VkbackendError):
    """The tokenizer's metadata is missing or contradictory, or its kind is not implemented."""


class RequestError(VkbackendError):
    """A request asks for something that cannot be done (an option out of range, a prompt too long)."""


class OutOfMemory(VkbackendError):
    """A model or a cache does not fit into the free memory."""


class DeviceError(VkbackendError):
    """A Vulkan call failed."""


class NoDevice(DeviceError):
    """There is no usable Vulkan loader, driver or device."""


class DeviceLost(DeviceError):
    """The driver reset the device, or a submission did not end in time."""

"""Errors a user may see. Each text says what, which, and what to do next."""


def brief(value: object) -> str:
    """The repr of a value, shortened for an error text."""
    shown = f"{value:#x}" if isinstance(value, int) and abs(value) >= 1 << 200 else repr(value)
    return shown if len(shown) <= 60 else shown[:60] + "..."


class VkbackendError(Exception):
    """Base of every error raised on purpose; its text is fit to be shown to a user."""


class GGUFError(VkbackendError):
    """A file cannot be read, is not a GGUF, is cut short, or its header contradicts itself."""


class UnsupportedModel(VkbackendError):
    """The file is sound, but its architecture or a tensor type has no implementation here."""


class TokenizerError(VkbackendError):
    """The tokenizer's metadata is missing, contradictory, or of a kind not implemented."""


class RequestError(VkbackendError):
    """A request asks for something that cannot be done (an option out of range, a prompt too long)."""


class OutOfMemory(VkbackendError):
    """A model or a cache does not fit into the memory that is free."""


class DeviceError(VkbackendError):
    """A Vulkan call failed."""


class NoDevice(DeviceError):
    """No Vulkan loader, driver or device that can be used."""


class DeviceLost(DeviceError):
    """The driver reset the device, or a submission did not end in time."""

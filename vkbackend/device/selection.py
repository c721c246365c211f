"""The device that this process uses, chosen by the environment and opened once.

Out: `current()`: an open `Device`, or None for the CPU, with the reason in words.
"""

import logging
import threading
from dataclasses import dataclass, field

from .. import settings
from ..errors import DeviceError, NoDevice
from .context import Device
from .discover import DeviceInfo, choose, list_devices

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """info: the chosen device, None for the CPU. reason: why. devices: all there are, reasons: index -> why each was taken or not."""

    info: DeviceInfo | None
    reason: str
    devices: list[DeviceInfo] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)


def select() -> Selection:
    """Look at the environment and the devices; opens nothing and never raises."""
    if not settings.get("OLLAMA_VULKAN"):
        return Selection(None, "OLLAMA_VULKAN is not set: running on the CPU; OLLAMA_VULKAN=1 runs models on a Vulkan device")
    try:
        devices = list_devices()
        choice = choose(devices, settings.get("GGML_VK_VISIBLE_DEVICES"))
    except DeviceError as error:
        return Selection(None, f"OLLAMA_VULKAN=1, but {error}; running on the CPU")
    return Selection(choice.device, choice.reasons[choice.device.index], devices, choice.reasons)


_lock = threading.Lock()
_open: Device | None = None


def current() -> Device | None:
    """The selected device, opened once per process. None where models run on the CPU: not asked for, or (logged) not possible."""
    global _open
    with _lock:
        if _open is not None:
            return _open
        selection = select()
        if selection.info is None:
            if settings.get("OLLAMA_VULKAN"):
                log.warning("%s", selection.reason)
            return None
        try:
            _open = Device(selection.info, force_discrete=settings.get("VKBACKEND_FORCE_DISCRETE"))
        except (DeviceError, NoDevice) as error:
            log.warning("%s could not be opened: %s; running on the CPU", selection.info.name, error)
            return None
        log.info("device %d: %s (%s)", selection.info.index, selection.info.name, selection.reason)
        return _open


def forget() -> None:
    """Let go of the device, so that `current` opens it anew: after it was lost, or at the end."""
    global _open
    with _lock:
        device, _open = _open, None
    if device is not None:
        device.close()


def open_device(index: int | None = None) -> Device:
    """Open a device by its index in `list_devices()`, or the best one. Raises NoDevice, DeviceError."""
    devices = list_devices()
    if index is None:
        return Device(choose(devices, settings.get("GGML_VK_VISIBLE_DEVICES")).device)
    for info in devices:
        if info.index == index:
            return Device(info)
    raise NoDevice(f"there is no Vulkan device {index}; there are: {', '.join(f'{info.index} {info.name}' for info in devices)}")

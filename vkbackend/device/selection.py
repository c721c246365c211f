"""The device that this process uses: chosen by the environment, opened once.

In: the Vulkan loader, OLLAMA_VULKAN, GGML_VK_VISIBLE_DEVICES. Out: `survey()`, what there is and what would be used and why;
`current()`, the open `Device`, or None for the CPU.
"""

import logging
import threading
from dataclasses import dataclass, field

from .. import settings
from ..errors import DeviceError, NoDevice
from .context import Device
from .discover import DeviceInfo, choose, list_devices

log = logging.getLogger(__name__)

SWITCHED_OFF = "OLLAMA_VULKAN is not set; with OLLAMA_VULKAN=1 models run on a Vulkan device"


@dataclass(frozen=True)
class Survey:
    """devices: all there are. chosen: the one that models are loaded on when Vulkan is switched on, None where there is none.

    reasons: why each device was chosen or not, by index. problem: why no device can be used, empty where one can.
    """

    devices: list[DeviceInfo] = field(default_factory=list)
    chosen: DeviceInfo | None = None
    reasons: dict[int, str] = field(default_factory=dict)
    problem: str = ""
    is_switched_on: bool = False

    @property
    def uses_device(self) -> bool:
        return self.is_switched_on and self.chosen is not None

    @property
    def sentence(self) -> str:
        """Where models run and why."""
        if self.uses_device:
            return f"{self.chosen.name} ({self.reasons[self.chosen.index]})"
        if self.is_switched_on:
            return f"CPU, although OLLAMA_VULKAN is set: {self.problem}"
        return f"CPU ({SWITCHED_OFF})"


def survey() -> Survey:
    """Opens nothing and never raises: no device is an answer, too."""
    is_switched_on = settings.get("OLLAMA_VULKAN")
    try:
        devices = list_devices()
    except DeviceError as error:
        return Survey(problem=str(error), is_switched_on=is_switched_on)
    try:
        choice = choose(devices, settings.get("GGML_VK_VISIBLE_DEVICES"))
    except DeviceError as error:
        return Survey(devices, None, {device.index: str(error) for device in devices}, str(error), is_switched_on)
    return Survey(devices, choice.device, choice.reasons, "", is_switched_on)


_lock = threading.Lock()
_open: Device | None = None


def current() -> Device | None:
    """The selected device, opened once per process. None where models run on the CPU: not asked for, or (logged) not possible."""
    global _open
    with _lock:
        if _open is not None:
            return _open
        found = survey()
        if not found.uses_device:
            log.log(logging.WARNING if found.is_switched_on else logging.INFO, "running on the %s", found.sentence)
            return None
        try:
            _open = _opened(found.chosen)
        except DeviceError as error:
            log.warning("%s could not be opened: %s; running on the CPU", found.chosen.name, error)
            return None
        log.info("device %d: %s", found.chosen.index, found.sentence)
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
        return _opened(choose(devices, settings.get("GGML_VK_VISIBLE_DEVICES")).device)
    for info in devices:
        if info.index == index:
            return _opened(info)
    raise NoDevice(f"there is no Vulkan device {index}; there are: {', '.join(f'{info.index} {info.name}' for info in devices)}")


def _opened(info: DeviceInfo) -> Device:
    return Device(info, force_discrete=settings.get("VKBACKEND_FORCE_DISCRETE"))

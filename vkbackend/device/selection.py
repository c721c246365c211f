"""The devices that this process uses: chosen by the environment, each opened once, when a model first needs it.

In: the Vulkan loader, OLLAMA_VULKAN, GGML_VK_VISIBLE_DEVICES, OLLAMA_LLM_LIBRARY. Out: `survey()`, all devices, and
which of them would be used and why; `survey_for_models()`, the same without loading a driver where Vulkan is switched
off; `usable()`, the devices that models may be placed on; `opened(uuid)`, an open
`Device`. Devices are identified by UUID: indices are the loader's order and may change.
"""

import logging
import threading
from dataclasses import dataclass, field, replace

from .. import settings
from ..errors import DeviceError, NoDevice, VkbackendError
from .choosing import choose
from .context import Device
from .device_info import DeviceInfo
from .discover import list_devices

log = logging.getLogger(__name__)

PROBE_BYTES = 4096
PLENTY = 1 << 20  # a device with this much free memory that cannot allocate PROBE_BYTES never can


@dataclass(frozen=True)
class Survey:
    """The devices of this machine, and which of them models would use.

    chosen: the preferred device, used if Vulkan is switched on; None if there is none. usable: all devices that models
    may be placed on, the chosen one first. reasons: why each device was chosen or not, by index. problem: why no device
    can be used; empty if one can.
    """

    devices: list[DeviceInfo] = field(default_factory=list)
    chosen: DeviceInfo | None = None
    reasons: dict[int, str] = field(default_factory=dict)
    problem: str = ""
    is_switched_on: bool = False
    usable: list[DeviceInfo] = field(default_factory=list)

    @property
    def uses_device(self) -> bool:
        """Whether models run on a device."""
        return self.is_switched_on and self.chosen is not None

    @property
    def sentence(self) -> str:
        """Where models run and why."""
        if self.is_switched_on and self.chosen is not None:
            others = "".join(f", then {info.name}" for info in self.usable[1:])
            return f"{self.chosen.name}, {self.reasons[self.chosen.index]}{others}"
        if self.is_switched_on:
            return f"CPU, although OLLAMA_VULKAN is set: {self.problem}"
        device = self.chosen.name if self.chosen else "a Vulkan device"
        return f"CPU (OLLAMA_VULKAN is not set; with OLLAMA_VULKAN=1 models would run on {device})"

    def as_dict(self) -> dict:
        """JSON values: what `vkbackend devices --json` prints and /api/devices answers."""
        listed = [
            device.as_dict()
            | {"used": self.uses_device and device in self.usable, "reason": self.reasons[device.index]}
            for device in self.devices
        ]
        return {
            "vulkan": self.is_switched_on,
            "chosen": self.chosen.index if self.chosen else None,
            "order": [device.index for device in self.usable],
            "runs_on": self.sentence,
            "problem": self.problem,
            "devices": listed,
        }


def survey(devices: list[DeviceInfo] | None = None) -> Survey:
    """Survey `devices`, or all that can be listed now. Opens nothing and never raises: a missing driver becomes the
    `problem`.
    """
    is_switched_on = settings.get("OLLAMA_VULKAN")
    try:
        devices = _with_problems(list_devices() if devices is None else devices)
        library = settings.get("OLLAMA_LLM_LIBRARY")
        if library not in ("", "vulkan"):
            raise NoDevice(f"OLLAMA_LLM_LIBRARY={library} leaves Vulkan out")
    except DeviceError as error:
        return Survey(problem=str(error), is_switched_on=is_switched_on)
    try:
        choice = choose(devices, settings.get("GGML_VK_VISIBLE_DEVICES"))
    except DeviceError as error:
        reasons = {
            device.index: f"cannot be used: {device.problem}" if device.problem else str(error) for device in devices
        }
        return Survey(devices, None, reasons, str(error), is_switched_on)
    return Survey(devices, choice.device, choice.reasons, "", is_switched_on, choice.usable)


def survey_for_models() -> Survey:
    """Survey what models run on. With Vulkan switched off, no driver is loaded and no device listed."""
    return survey() if settings.get("OLLAMA_VULKAN") else Survey()


_problems: dict[str, str] = {}  # by UUID: why a device cannot be used, found out when it was opened


def _with_problems(devices: list[DeviceInfo]) -> list[DeviceInfo]:
    return [replace(info, problem=info.problem or _problems.get(info.uuid, "")) for info in devices]


_lock = threading.Lock()
_open: dict[str, Device] = {}  # by UUID
_listed: list[DeviceInfo] = []  # the devices when a model was last loaded


def _survey_to_load() -> Survey:
    """Re-enumerate unless every usable device is already open: the list contains their free memory. Open devices are
    asked directly, because a new VkInstance would restart the validation layers, which truncates their log.
    """
    global _listed
    found = survey(_listed) if _listed else Survey()
    if not found.usable or any(info.uuid not in _open for info in found.usable):
        found = survey()
        _listed = found.devices
    return found


def usable() -> list[tuple[DeviceInfo, Device | None]]:
    """The devices that models may be placed on, the preferred one first, each with its `Device` if it is open.

    Empty if models run on the CPU: Vulkan is switched off, or no device can be used (logged).
    """
    found = _survey_to_load() if settings.get("OLLAMA_VULKAN") else Survey()
    if not found.uses_device:
        log.log(logging.WARNING if found.is_switched_on else logging.INFO, "running on the %s", found.sentence)
        return []
    with _lock:
        return [(info, _open.get(info.uuid)) for info in found.usable]


def num_usable() -> int:
    """Number of devices that models may be placed on; 0 if they run on the CPU."""
    if not settings.get("OLLAMA_VULKAN"):
        return 0
    found = _survey_to_load()
    return len(found.usable) if found.uses_device else 0


def opened(uuid: str) -> Device:
    """A usable device, opened once per process. Raises NoDevice, DeviceError."""
    with _lock:
        if uuid not in _open:
            found = _survey_to_load()
            info = next((info for info in found.usable if info.uuid == uuid), None)
            if info is None:
                raise NoDevice(f"the device with UUID {uuid} is missing or excluded; see `vkbackend devices`")
            try:
                _open[uuid] = _opened(info)
            except DeviceError as error:
                log.warning("%s could not be opened: %s; loading the model without it", info.name, error)
                raise
            log.info("device %d: %s, %s", info.index, info.name, found.reasons[info.index])
        return _open[uuid]


def forget(device: Device | None = None) -> None:
    """Close a device, so that the next model opens it again, after it was lost. Without an argument: close all, at the
    end of the process.
    """
    with _lock:
        gone = [uuid for uuid, each in _open.items() if device is None or each is device]
        closing = [_open.pop(uuid) for uuid in gone]
    for each in closing:
        each.close()


def open_device(index: int | None = None) -> Device:
    """Open a device by its index in `list_devices()`, or the preferred one. Raises NoDevice, DeviceError."""
    devices = _with_problems(list_devices())
    if index is None:
        return _opened(choose(devices, settings.get("GGML_VK_VISIBLE_DEVICES")).device)
    for info in devices:
        if info.index == index:
            return _opened(info)
    raise NoDevice(
        f"there is no Vulkan device {index}; there are: {', '.join(f'{info.index} {info.name}' for info in devices)}"
    )


def _opened(info: DeviceInfo) -> Device:
    """Open a device and check that it can allocate. Raises NoDevice if it cannot; it is not chosen again then."""
    if info.problem:
        raise NoDevice(f"{info.name} cannot be used: {info.problem}; see `vkbackend devices`")
    device = Device(info, force_discrete=settings.get("VKBACKEND_FORCE_DISCRETE"))
    try:
        for kind in ("device", "step", "readback"):
            device.memory(PROBE_BYTES, kind)
    except VkbackendError as error:
        if device.free_memory() > PLENTY:  # otherwise it is only full
            _problems[info.uuid] = f"it cannot make a buffer ({error})"
        raise NoDevice(f"{info.name} cannot make a buffer ({error}); see `vkbackend devices`") from error
    return device

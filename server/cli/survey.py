"""What the machine has and what would be used, in words: for `devices`, and for the server's log at its start.

In: the Vulkan loader, OLLAMA_VULKAN, GGML_VK_VISIBLE_DEVICES. Out: `Survey`. Never raises: no device is an answer, too.
"""

from dataclasses import dataclass, field

from vkbackend import settings
from vkbackend.device.discover import DeviceInfo, choose, list_devices
from vkbackend.errors import DeviceError

from ..formatting import human_bytes_binary

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


def describe(device: DeviceInfo) -> str:
    """Type, driver and memory in one line."""
    return (f"{device.name}: {device.type.name.lower()}, {device.driver} {device.driver_version}, Vulkan {'.'.join(map(str, device.api))}, "
            f"{human_bytes_binary(device.memory_free)} of {human_bytes_binary(device.memory_total)} free")

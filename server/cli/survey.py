"""A device in one line, for the server's log at its start and for `devices`. What there is: `vkbackend.device.selection.survey`."""

from vkbackend.device.discover import DeviceInfo

from ..formatting import human_bytes_binary


def describe(device: DeviceInfo) -> str:
    """Type, driver and memory in one line."""
    return (f"{device.name}: {device.type.name.lower()}, {device.driver} {device.driver_version}, Vulkan {'.'.join(map(str, device.api))}, "
            f"{human_bytes_binary(device.memory_free)} of {human_bytes_binary(device.memory_total)} free")

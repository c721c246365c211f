"""`devices`: lists every Vulkan device with its features, and which ones models would use, in which order and why."""

import json

import click

from vkbackend.device.device_info import DeviceInfo
from vkbackend.device.selection import Survey, survey

from ..go.human import human_bytes_binary
from .main import Failure
from .terminal.table import columns

HEADER = ["INDEX", "NAME", "TYPE", "DRIVER", "API", "SUBGROUP", "MEMORY", "FREE", "PREFERRED"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all details as JSON.")
def devices(as_json: bool) -> None:
    """List Vulkan devices, which ones are used, and why."""
    found = survey()
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        click.echo("\n".join(lines(found)))
    if not found.devices:
        raise Failure(found.problem or "no Vulkan device found") if not as_json else click.exceptions.Exit(1)


def lines(found: Survey) -> list[str]:
    """Format the survey as a table and an explanation of each device."""
    if not found.devices:
        return ["Models run on: CPU"]
    rows = [
        [
            device.index,
            device.name,
            device.type.name.lower(),
            f"{device.driver} {device.driver_version}",
            ".".join(map(str, device.api)),
            _range(device.subgroup_min, device.subgroup_max),
            human_bytes_binary(device.memory_total),
            human_bytes_binary(device.memory_free),
            _place(device, found.usable),
        ]
        for device in found.devices
    ]
    text = columns(rows, HEADER) + [""]
    for device in found.devices:
        text += [
            f"{device.index}: {found.reasons[device.index]}",
            f"   features: {', '.join(sorted(device.features)) or 'none'}",
        ]
    return text + ["", f"Models run on: {found.sentence}"]


def _place(device: DeviceInfo, usable: list[DeviceInfo]) -> str:
    """Mark the first device with *, and those that take what does not fit there, or a share, with 2, 3, ..."""
    if device not in usable:
        return ""
    number = usable.index(device) + 1
    return "*" if number == 1 else str(number)


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}-{most}"


def describe(device: DeviceInfo) -> str:
    """Describe a device in one line: type, driver and memory."""
    return (
        f"{device.name}: {device.type.name.lower()}, {device.driver} {device.driver_version}, Vulkan "
        f"{'.'.join(map(str, device.api))}, "
        f"{human_bytes_binary(device.memory_free)} of {human_bytes_binary(device.memory_total)} free"
    )

"""`devices`: every Vulkan device, what it can do, which ones models would run on, in which order, and why."""

import json

import click

from vkbackend.device.discover import DeviceInfo
from vkbackend.device.selection import Survey, survey

from ..go.human import human_bytes_binary
from .main import Failure
from .terminal.table import columns

HEADER = ["INDEX", "NAME", "TYPE", "DRIVER", "API", "SUBGROUP", "MEMORY", "FREE", "CHOSEN"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Everything that is known, as JSON.")
def devices(as_json):
    """List Vulkan devices, and which ones are used and why."""
    found = survey()
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        click.echo("\n".join(lines(found)))
    if not found.devices:
        raise Failure(found.problem or "no Vulkan device was found") if not as_json else click.exceptions.Exit(1)


def lines(found: Survey) -> list[str]:
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
            f"   features: {', '.join(sorted(device.features)) or 'none of the optional ones'}",
        ]
    return (
        text
        + ["", f"Models run on: {found.sentence}"]
        + (
            []
            if found.is_switched_on or found.chosen is None
            else [f"With OLLAMA_VULKAN=1 they would run on {found.chosen.name}"]
        )
    )


def _place(device, usable) -> str:
    """* for the device that comes first, then 2, 3, ... for those that models go to where they do not fit there, or
    where they are spread.
    """
    if device not in usable:
        return ""
    number = usable.index(device) + 1
    return "*" if number == 1 else str(number)


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}-{most}"


def describe(device: DeviceInfo) -> str:
    """Type, driver and memory in one line."""
    return (
        f"{device.name}: {device.type.name.lower()}, {device.driver} {device.driver_version}, Vulkan "
        f"{'.'.join(map(str, device.api))}, "
        f"{human_bytes_binary(device.memory_free)} of {human_bytes_binary(device.memory_total)} free"
    )

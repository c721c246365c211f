"""`check`: compares every kernel variant with its numpy reference, on every device of this machine.

Out: one line per op with the worst difference as a multiple of the tolerance, and the failing kernels by name. Exit
status 1 if one fails.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import click

from .main import Failure

if TYPE_CHECKING:
    from vkbackend.check import Result
    from vkbackend.device.context import Device
    from vkbackend.device.discover import DeviceInfo


@dataclass
class OpReport:
    """Results of one op. unavailable: number of its variants that need a feature the device lacks."""

    name: str
    passed: int = 0
    failed: list = field(default_factory=list)
    unavailable: int = 0
    worst: float = 0.0

    def add(self, result: Result) -> None:
        """Count the result of one kernel variant, and keep it if it failed."""
        self.worst = max(self.worst, result.worst)
        if result.passed:
            self.passed += 1
        else:
            self.failed.append(result)


@click.command()
@click.option("--only", default="", metavar="OP", help="Check only ops whose name contains this text.")
@click.option(
    "--device", "index", type=int, default=None, help="Check only the device with this index (see `vkbackend devices`)."
)
@click.option("-v", "--verbose", is_flag=True, help="Print a line for each kernel and case.")
@click.option("--json", "as_json", is_flag=True, help="Print all results as JSON.")
def check(only: str, index: int | None, verbose: bool, as_json: bool) -> None:
    """Compare every kernel with its numpy reference on your devices."""
    from vkbackend.device.discover import list_devices
    from vkbackend.device.selection import open_device
    from vkbackend.errors import NoDevice
    from vkbackend.ops import OPS

    names = [name for name in OPS if only in name]
    if not names:
        raise Failure(f"no op name contains {only!r}; available: {', '.join(OPS)}")
    indices = [info.index for info in list_devices()] if index is None else [index]
    if not indices:
        raise NoDevice("no Vulkan device found; see `vulkaninfo --summary`")
    documents = []
    for index in indices:
        with closing(open_device(index)) as device:
            reports, results = check_device(device, only, names, verbose and not as_json, quiet=as_json)
            documents.append(_document(device.info, reports, results))
    if as_json:
        click.echo(json.dumps(documents, indent=1))
    num_failed = sum(op["failed"] for document in documents for op in document["ops"])
    if num_failed:
        click.echo(f"{num_failed} kernels differ from their twins", err=True)
        raise click.exceptions.Exit(1)


def check_device(
    device: Device, only: str, names: list[str], verbose: bool, quiet: bool
) -> tuple[dict[str, OpReport], list[Result]]:
    """Check one device and print progress unless quiet. Returns ({op: OpReport}, all results)."""
    from vkbackend.check import check as run_checks

    reports, results = {name: OpReport(name) for name in names}, []

    def say(text: str) -> None:
        if not quiet:
            click.echo(text)

    say(f"device {device.info.index}: {device.info.name}")
    for report in reports.values():
        report.unavailable = _unavailable(device, report.name)
    current = None
    for result in run_checks(device, only):
        if current not in (None, result.op):
            say(_line(reports[current]))
        current = result.op
        reports[current].add(result)
        results.append(result)
        if verbose or not result.passed:
            say(_result_line(result))
    if current:
        say(_line(reports[current]))
    passed, failed = (
        sum(report.passed for report in reports.values()),
        sum(len(report.failed) for report in reports.values()),
    )
    say(
        f"{passed} passed, {failed} failed, {sum(report.unavailable for report in reports.values())} variants n/a on "
        f"this device\n"
    )
    return reports, results


def _unavailable(device: Device, op_name: str) -> int:
    """Count an op's variants that this device cannot run. A variant's name begins with the op's name."""
    from vkbackend.device.shaders import variants

    return sum(
        bool(device.kernels.missing(name)) for name in variants() if name == op_name or name.startswith(f"{op_name}_")
    )


def _line(report: OpReport) -> str:
    verdict = "ok  " if not report.failed else "FAIL"
    text = (
        f"{verdict}  {report.name:<12}  {report.passed:>4} passed  {len(report.failed):>3} failed  "
        f"{report.unavailable:>3} n/a  worst {report.worst:.3g}"
    )
    return text + " of the tolerance"


def _result_line(result: Result) -> str:
    outcome = "ok" if result.passed else "DIFFERS"
    return f"  {outcome}: {result.kernel} on {result.op} {result.case!r}: " + (
        result.error or f"{result.worst:.3g} times the tolerance"
    )


def _document(info: DeviceInfo, reports: dict[str, OpReport], results: list) -> dict:
    ops = [
        {
            "name": report.name,
            "passed": report.passed,
            "failed": len(report.failed),
            "unavailable": report.unavailable,
            "worst": _finite(report.worst),
        }
        for report in reports.values()
    ]
    listed = [asdict(result) | {"worst": _finite(result.worst), "passed": result.passed} for result in results]
    return {
        "device": {
            "index": info.index,
            "name": info.name,
            "uuid": info.uuid,
            "driver": f"{info.driver} {info.driver_version}",
        },
        "ops": ops,
        "results": listed,
    }


def _finite(number: float) -> float | None:
    """Replace infinities and NaN, which JSON cannot hold, by None."""
    return float(number) if abs(number) < float("inf") else None

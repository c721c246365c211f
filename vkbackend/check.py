"""Checks every kernel variant against its numpy twin on a device.

In: an open `Device`. Out: one `Result` per case, flavor, subgroup size and variant, which `vkbackend check` prints.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .device.context import Device
from .device.dispatch import Program
from .errors import DeviceError
from .ops import OPS
from .ops.op import Case, Op
from .ops.run import prepare, reference

# One run of kernels: op, case, (shader, subgroup size) and constants of each dispatch.
Job = tuple[str, str, tuple[tuple[str, int], ...], tuple[tuple[tuple[int, int], ...], ...]]


@dataclass(frozen=True)
class Result:
    """The result of one case.

    worst: the largest |device - twin| as a multiple of the case's tolerance; above 1 (or NaN) the case fails
    """

    op: str
    case: str
    kernel: str
    worst: float
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether the kernel ran and is within the tolerance."""
        return not self.error and self.worst <= 1


def settings(device: Device) -> Iterator[tuple[str, int]]:
    """(flavor, subgroup size) pairs that the device can run."""
    for flavor in device.info.flavors:
        for lanes in device.info.subgroup_sizes if flavor != "base" else (device.info.subgroup_size,):
            yield flavor, lanes


def check(device: Device, only: str = "", quick: bool = False) -> Iterator[Result]:
    """Run all cases, or those of ops whose name contains `only`. A kernel that several settings share runs once.

    quick: only the first case of each op, with the kernels that models would use on this device: seconds instead of
    minutes
    """
    before = device.flavor, device.lanes
    done: set[Job] = set()
    try:
        for op in OPS.values():
            if only and only not in op.name:
                continue
            for case in op.cases[:1] if quick else op.cases:
                if not all(device.supports(feature) for feature in op.requires(**case.attrs)):
                    continue  # `vkbackend check` counts these kernels
                inputs = case.make(np.random.default_rng(7))
                expected = reference(op.name, *inputs, **case.attrs)
                for flavor, lanes in [before] if quick else settings(device):
                    device.flavor = flavor
                    device.lanes = lanes
                    for variant in op.variants(device, inputs, **case.attrs):
                        yield from _run(device, op, case, inputs, expected, variant, done)
    finally:
        device.flavor, device.lanes = before


def _run(
    device: Device,
    op: Op,
    case: Case,
    inputs: Sequence[object],
    expected: Any,
    variant: dict[str, Any],
    done: set[Job],
) -> Iterator[Result]:
    try:
        prepared = prepare(device, op, inputs, case.attrs, variant)
        kernels = tuple((dispatch.shader, dispatch.subgroup_size) for dispatch in prepared.dispatches)
        job = op.name, case.label, kernels, tuple(dispatch.constant_words for dispatch in prepared.dispatches)
        if job in done:
            return
        done.add(job)
        names = ", ".join(dict.fromkeys(f"{shader}/{size}" if size else shader for shader, size in kernels))
        Program(device, prepared.dispatches).run()
        yield Result(op.name, case.label, names, difference(op, case, expected, prepared.results(device)))
    except DeviceError as error:
        yield Result(op.name, case.label, f"{device.flavor}/{device.lanes} {variant or ''}", np.inf, str(error))


def difference(op: Op, case: Case, expected: Any, actual: tuple[Any, ...]) -> float:
    """The largest difference of an element of an op's results (arrays or q8_0 caches), as a multiple of the case's
    tolerance.
    """
    expected = op.canonical(expected if isinstance(expected, tuple) else (expected,))
    worst = 0.0
    for twin, found in zip(expected, op.canonical(actual)):
        twin = np.asarray(twin, np.float64)
        found = np.asarray(found, np.float64)
        allowed = case.atol + case.rtol * np.abs(twin)
        gap = np.abs(found - twin)
        ratio = np.where(gap == 0, 0.0, gap / np.maximum(allowed, 1e-300))
        worst = max(worst, float(ratio.max(initial=0.0)) if np.isfinite(ratio).all() else np.inf)
    return worst

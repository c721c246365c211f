"""The fastest of an op's kernels for each job on this device: measured before a step runs for the second time, and kept
in a file per device and driver.

A job that is not measured yet uses the fastest kernel of the most similar job (`likely`), or else a default.

In: an op with its inputs and outputs in device memory. Out: keyword arguments of its `dispatch`. All candidates of a
job compute the same bits (`Op.candidates`), so results do not depend on the choice.
"""

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import settings
from ..device import shaders
from ..device.context import Device
from ..device.dispatch import Program
from .op import Op, TensorView

log = logging.getLogger(__name__)

ROUNDS = 6  # each candidate runs once per round; its shortest time counts
# No further round starts after this: the output layer for a whole prompt takes a second on a software driver.
MOST_SECONDS = 2.0
REPEATED_FLOPS = 50e6  # smaller jobs are recorded REPEATS times, so that the cost of submission does not dominate
REPEATS = 4
LEAST_FLOPS = 400_000  # smaller jobs use the default: any kernel is fast enough


class Tuning:
    """Kernel timings of one device. is_on False: earlier measurements are used, and nothing new is measured."""

    def __init__(self, device: Device, is_on: bool = True):
        self.device = device
        self.is_on = is_on
        self.path = settings.cache_folder() / "tuning" / f"{device.info.key}.json"
        self._of_shaders = shaders.digest()  # edited shaders are measured again
        self._found: dict[str, dict] = _read(self.path).get(self._of_shaders, {})

    def fastest(
        self,
        op: Op,
        inputs: Sequence,
        outputs: Sequence[TensorView],
        attrs: Mapping[str, object],
        measure: bool = True,
    ) -> dict | None:
        """Arguments for `op.dispatch` in addition to `attrs`; empty if the op has no choice or its default will do.
        Without `measure`: None if the job would have to be measured first.
        """
        candidates = op.candidates(self.device, inputs, **attrs)
        if len(candidates) < 2:
            return candidates[0] if candidates else {}
        job = self._job(op, inputs, attrs)
        known = next((each for each in candidates if as_stored(each) == self._found.get(job)), None)
        if known is not None or not self.is_on:
            return known or {}
        jobs = [op.record(self.device, inputs, outputs, **attrs, **candidate) for candidate in candidates]
        flops = sum(dispatch.flops for dispatch in jobs[0])
        if flops < LEAST_FLOPS:
            return {}
        if not measure:
            return None
        before = self.device.kernels.keys()
        programs = [
            Program(self.device, dispatches * (REPEATS if flops < REPEATED_FLOPS else 1)) for dispatches in jobs
        ]
        seconds = _least_seconds(programs)
        best = min(range(len(candidates)), key=seconds.__getitem__)
        self.device.kernels.keep(before, programs[best].dispatches)  # a kernel takes several MiB in a software driver
        log.debug(
            "tuned %s: %s",
            job,
            ", ".join(f"{candidate} {each * 1e6:.0f} us" for candidate, each in zip(candidates, seconds)),
        )
        self._found[job] = as_stored(candidates[best])
        self._save()
        return candidates[best]

    def likely(self, op: Op, inputs: Sequence, attrs: Mapping[str, object]) -> dict:
        """The fastest kernel of the same job with the nearest number of tokens; empty if none was measured. So a step
        that is not measured yet mostly runs kernels that already exist: each takes several MiB in a software driver.
        """
        wanted = _without_tokens(self._job(op, inputs, attrs))
        if wanted is None:
            return {}
        job, num_tokens = wanted
        known = {}  # difference in tokens -> candidate
        for other, found in self._found.items():
            other_job, other_tokens = _without_tokens(other) or ("", 0)  # a damaged file may hold any name
            if other_job == job:
                known |= {
                    abs(other_tokens - num_tokens): each
                    for each in op.candidates(self.device, inputs, **attrs)
                    if as_stored(each) == found
                }
        return known[min(known)] if known else {}

    def _job(self, op: Op, inputs: Sequence, attrs: Mapping[str, object]) -> str:
        return f"{self.device.flavor}/{self.device.lanes} {op.name} {op.job(inputs, **attrs)}"

    def _save(self) -> None:
        """Write the file, keeping what another process has measured in the meantime. If it cannot be written, this
        process uses its own measurements.
        """
        everything = _read(self.path)
        self._found = everything.get(self._of_shaders, {}) | self._found
        settings.write_whole(self.path, json.dumps({self._of_shaders: self._found}, indent=1, sort_keys=True).encode())


def _without_tokens(job: str) -> tuple[str, int] | None:
    """ "texel/8 matmul q4_k 128x640x1024 norm" -> ("texel/8 matmul q4_k 640x1024 norm", 128); None for other
    names.
    """
    found = re.fullmatch(r"(.*? )(\d{1,12})x(.*)", job)
    return (found[1] + found[3], int(found[2])) if found else None


def as_stored(candidate: dict) -> dict:
    """The candidate as it reads back from JSON: lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in candidate.items()}


def _least_seconds(programs: list[Program]) -> list[float]:
    """Shortest time of each program, in seconds. Programs take turns, so that a temporary load affects all alike; the
    first round compiles the kernels.
    """
    least = [float("inf")] * len(programs)
    end = time.perf_counter() + MOST_SECONDS
    for turn in range(ROUNDS + 1):
        if turn > 1 and time.perf_counter() > end:
            break
        for at, program in enumerate(programs):
            start = time.perf_counter()
            program.run()
            if turn:
                least[at] = min(least[at], time.perf_counter() - start)
    return least


def _read(path: Path) -> dict:
    """The measurements in a file; empty if it is missing or damaged."""
    text = settings.read_cached(path)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and all(isinstance(jobs, dict) for jobs in found.values()):
        return found
    settings.warn_of_damage(path)
    return {}

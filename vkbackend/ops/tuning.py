"""Which of an op's kernels does a job fastest on this device: measured before a step runs for the second time, kept
in a file per device and driver.

What is not measured yet takes what was fastest for nearly the same job (`likely`), else a default.

In: an op with its inputs and outputs in device memory. Out: keyword arguments of its `dispatch`. All candidates of a
job compute the same bits (`Op.candidates`), so neither the choice nor its chance ever shows in a result.
"""

import json
import logging
import re
import time
from pathlib import Path

from .. import settings
from ..device import shaders
from ..device.dispatch import Program
from .op import Op

log = logging.getLogger(__name__)

ROUNDS = 6  # each candidate runs once a round; its least time counts
MOST_SECONDS = (
    2.0  # no further round after these: a vocabulary's product with a whole prompt takes a second on a software driver
)
REPEATED_FLOPS = 50e6  # a job of less is recorded REPEATS times, so that the submission's own time does not hide it
REPEATS = 4
LEAST_FLOPS = 400_000  # what is smaller takes the default: any kernel is fast enough


class Tuning:
    """Of one device. is_on False: what was measured before is used, nothing is measured anew."""

    def __init__(self, device, is_on: bool = True):
        self.device, self.is_on = device, is_on
        self.path = settings.cache_folder() / "tuning" / f"{device.info.key}.json"
        self._of_shaders = shaders.digest()  # an edited shader may be faster or slower than it was
        self._found: dict[str, dict] = _read(self.path).get(self._of_shaders, {})

    def fastest(self, op: Op, inputs, outputs, attrs: dict, measure: bool = True) -> dict | None:
        """Arguments for `op.dispatch` beside `attrs`; empty where the op has no choice, or its own will do. Without
        `measure`: None where it would have to be measured first.
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
        self.device.kernels.keep(before, programs[best].dispatches)  # a software driver holds some MiB for each
        log.debug(
            "tuned %s: %s",
            job,
            ", ".join(f"{candidate} {each * 1e6:.0f} us" for candidate, each in zip(candidates, seconds)),
        )
        self._found[job] = as_stored(candidates[best])
        self._save()
        return candidates[best]

    def likely(self, op: Op, inputs, attrs: dict) -> dict:
        """What was fastest for the job that is most like this one, measured with another number of tokens; empty
        where there is none. So a step that is not measured yet mostly runs the kernels that others have made: a
        software driver holds some MiB for each.
        """
        job, tokens = _without_tokens(self._job(op, inputs, attrs))
        known = {}  # how far off in tokens -> candidate
        for other, found in self._found.items():
            other, other_tokens = _without_tokens(other) or ("", 0)  # a damaged file may hold any name
            if other == job:
                known |= {
                    abs(other_tokens - tokens): each
                    for each in op.candidates(self.device, inputs, **attrs)
                    if as_stored(each) == found
                }
        return known[min(known)] if known else {}

    def _job(self, op, inputs, attrs) -> str:
        return f"{self.device.flavor}/{self.device.lanes} {op.name} {op.job(inputs, **attrs)}"

    def _save(self) -> None:
        """What another process measured meanwhile is kept. Where nothing can be written, this process goes by its
        own measurements.
        """
        everything = _read(self.path)
        self._found = everything.get(self._of_shaders, {}) | self._found
        settings.write_whole(self.path, json.dumps({self._of_shaders: self._found}, indent=1, sort_keys=True).encode())


def _without_tokens(job: str) -> tuple[str, int] | None:
    """ "texel/8 matmul q4_k 128x640x1024 norm" -> ("texel/8 matmul q4_k 640x1024 norm", 128); None for what is no
    job with tokens.
    """
    found = re.fullmatch(r"(.*? )(\d{1,12})x(.*)", job)
    return found and (found[1] + found[3], int(found[2]))


def as_stored(candidate: dict) -> dict:
    """As JSON gives it back: lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in candidate.items()}


def _least_seconds(programs: list[Program]) -> list[float]:
    """Round by round, so that what disturbs the machine for a while disturbs all alike; the first round makes the
    kernels.
    """
    least, end = [float("inf")] * len(programs), time.perf_counter() + MOST_SECONDS
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
    """What is not there, or is damaged, was never measured."""
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

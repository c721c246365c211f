"""Profiles a step: the time of each op and kernel variant by the device's clock, and what the host does meanwhile.

In: a GGUF file and an open `Device` with timestamps. Out: `StepProfile`s of a decode step and of a prefill step;
`write_trace` writes them as a Chrome trace. Timestamps between dispatches take time on some drivers (50 us each on
llvmpipe), so a profiled step is slower; `plain_seconds` is the time of a step without them.
"""

import json
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..device.context import Device
from ..device.dispatch import Dispatch
from ..engine.contract import SequenceWork
from ..engine.runner import PAGE_SIZE, ModelRunner
from ..errors import RequestError
from ..graph.cache import CacheStorage
from ..graph.executor import DeviceExecutor
from ..loading import load

STEPS = 5

Timing = tuple[Dispatch, float]  # seconds by the device's clock


@dataclass(frozen=True)
class VariantTime:
    """All dispatches of one op and kernel variant in a step.

    seconds, num_bytes, flops: sums over the dispatches. num_bytes: what they bind; of caches and embeddings, only what
    they use. flops: of matrix products; 0 for other ops.
    """

    op: str
    variant: str
    calls: int
    seconds: float
    num_bytes: int
    flops: int

    @property
    def bytes_per_second(self) -> float:
        """`num_bytes` over the device's time; 0 if that was not measured."""
        return self.num_bytes / self.seconds if self.seconds else 0.0

    @property
    def flops_per_second(self) -> float:
        """`flops` over the device's time; 0 if that was not measured."""
        return self.flops / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class TraceSpan:
    """A time span of the trace. begin: seconds since the step began."""

    name: str
    begin: float
    seconds: float
    facts: dict


@dataclass(frozen=True)
class StepProfile:
    """Medians over STEPS steps.

    phase: "decode" or "prefill"
    context: tokens stored before the step
    device_seconds: sum of all dispatches
    step_seconds: by the host's clock, with timestamps; plain_seconds: without
    device, host: spans of the last step; dispatches follow one another from the moment of their submission
    """

    phase: str
    tokens: int
    context: int
    variants: list[VariantTime]
    step_seconds: float
    plain_seconds: float
    device: list[TraceSpan]
    host: list[TraceSpan]

    @property
    def device_seconds(self) -> float:
        return sum(each.seconds for each in self.variants)

    def as_dict(self) -> dict:
        """All figures but the spans."""
        variants = [
            asdict(each)
            | {
                "bytes_per_second": each.bytes_per_second,
                "flops_per_second": each.flops_per_second,
                "share": each.seconds / self.device_seconds,
            }
            for each in self.variants
        ]
        return {
            "phase": self.phase,
            "tokens": self.tokens,
            "context": self.context,
            "step_seconds": self.step_seconds,
            "plain_seconds": self.plain_seconds,
            "device_seconds": self.device_seconds,
            "variants": variants,
        }


def profile(path: str | Path, device: Device, *, prompt_tokens: int = 128, context: int = 128) -> list[StepProfile]:
    """Profile a decode step after `context` tokens and a prefill step of `prompt_tokens`, at most a chunk.

    Raises RequestError if the device has no clock or one that stands still, and what `loading.load` and `ModelRunner`
    raise.
    """
    if not device.info.timestamp_bits:
        raise RequestError(
            f"{device.info.name} counts no timestamps on its compute queue; there is nothing to profile with"
        )
    model = load(path, device)
    longest = max(prompt_tokens, context) + 2 * STEPS + 2
    runners = [
        ModelRunner(model, context_length=longest, timestamps=timestamps, tuned_at=1) for timestamps in (False, True)
    ]
    prompt_tokens = min(prompt_tokens, runners[0].prefill_chunk)
    return [_profile(runners, "decode", 1, context), _profile(runners, "prefill", prompt_tokens, 0)]


def _profile(runners: list[ModelRunner], phase: str, tokens: int, context: int) -> StepProfile:
    """runners: without and with timestamps."""
    plain, timed = runners
    plain_seconds = [seconds for _, seconds in _steps(plain, tokens, context)]
    executor = timed.executor
    assert isinstance(executor, DeviceExecutor), "the model is on the device"
    timings: list[list[Timing]] = []
    steps = []
    for step in _steps(timed, tokens, context):
        timings.append(executor.timings())
        steps.append(step)
    last = timings[-1]
    medians = [statistics.median(step[at][1] for step in timings[1:]) for at in range(len(last))]
    if not any(medians):
        raise RequestError(
            f"{executor.device.info.name}: its timestamps do not advance, so there is nothing to profile with; is it a "
            f"mock device?"
        )
    begin, _ = steps[-1]
    host = [TraceSpan(name, start - begin, end - start, {}) for name, start, end in executor.phases]
    return StepProfile(
        phase,
        tokens,
        context,
        _variants(timed, last, medians, tokens, context),
        statistics.median(seconds for _, seconds in steps[1:]),
        statistics.median(plain_seconds[1:]),
        _device_spans(last, host),
        host,
    )


def _steps(runner: ModelRunner, tokens: int, context: int) -> Iterator[tuple[float, float]]:
    """Run STEPS steps and one before them; yields (begin, seconds) after each."""
    sequence = runner.open_sequence()
    random = np.random.default_rng(1)
    if context:
        runner.step([SequenceWork(sequence, random.integers(0, runner.vocab_size, context).tolist(), 1)])
    for _ in range(STEPS + 1):
        work = [SequenceWork(sequence, random.integers(0, runner.vocab_size, tokens).tolist(), 1)]
        begin = time.perf_counter()
        runner.step(work)
        yield begin, time.perf_counter() - begin
        runner.truncate(sequence, context)
    runner.close_sequence(sequence)


def _variants(
    runner: ModelRunner, step: list[Timing], medians: list[float], tokens: int, context: int
) -> list[VariantTime]:
    """Sums by op and variant, in descending order of time."""
    sums: dict[tuple[str, str], VariantTime] = {}
    for (dispatch, _), seconds in zip(step, medians):
        key = dispatch.label, dispatch.shader
        old = sums.get(key, VariantTime(*key, 0, 0.0, 0, 0))
        sums[key] = VariantTime(
            *key,
            old.calls + 1,
            old.seconds + seconds,
            old.num_bytes + moved_bytes(dispatch, runner, tokens, context + tokens),
            old.flops + dispatch.flops,
        )
    return sorted(sums.values(), key=lambda each: -each.seconds)


def moved_bytes(dispatch: Dispatch, runner: ModelRunner, tokens: int, length: int) -> int:
    """Bytes that a dispatch reads and writes: what it binds, but of an embedding only the rows of `tokens`, and of a
    cache only what is filled (`length` tokens) or, if it is only written, what is stored.
    """
    assert isinstance(runner.storage, CacheStorage), "the model is in one place"
    cache = {tensor.buffer for pair in runner.storage.layers.values() for tensor in pair}
    pages = runner.storage.layout.num_pages * PAGE_SIZE
    total = 0.0
    for buffer in {*dispatch.reads, *dispatch.writes}:
        share = 1.0
        if dispatch.label == "embed" and buffer in dispatch.reads[1:]:
            share = min(1.0, tokens / runner.vocab_size)
        elif buffer in cache:
            share = (tokens if dispatch.label in ("kv_write", "split_heads") else length) / pages
        total += buffer.num_bytes * share
    return int(total)


def _device_spans(step: list[Timing], host: list[TraceSpan]) -> list[TraceSpan]:
    at = next(span.begin for span in host if span.name == "submit")  # the device may begin before the call returns
    spans = []
    for dispatch, seconds in step:
        facts = {
            "shader": dispatch.shader,
            "groups": list(dispatch.groups),
            "bound bytes": dispatch.num_bytes,
            "flops": dispatch.flops,
        }
        spans.append(TraceSpan(dispatch.label or dispatch.shader, at, seconds, facts))
        at += seconds
    return spans


def write_trace(path: str | Path, profiles: list[StepProfile], device_name: str) -> None:
    """Write a JSON file for ui.perfetto.dev: the steps one after another, with tracks for the device and the host.

    Times are in microseconds. https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
    """
    names = {1: "host", 2: f"device: {device_name}"}
    events = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "vkbackend"}}]
    events += [
        {"ph": "M", "pid": 1, "tid": track, "name": "thread_name", "args": {"name": name}}
        for track, name in names.items()
    ]
    start = 0
    for each in profiles:
        tracks = [(1, *placed) for placed in _in_nanoseconds(each.host)] + [
            (2, *placed) for placed in _in_nanoseconds(each.device)
        ]
        length = max(end for *_, end in tracks)
        step = TraceSpan(
            f"{each.phase} of {each.tokens} after {each.context}",
            0.0,
            length / 1e9,
            {"plain ms": 1e3 * each.plain_seconds},
        )
        events += [
            {
                "ph": "X",
                "pid": 1,
                "tid": track,
                "name": span.name,
                "cat": each.phase,
                "ts": (start + begin) / 1e3,
                "dur": (end - begin) / 1e3,
                "args": span.facts,
            }
            for track, span, begin, end in [(1, step, 0, length), *tracks]
        ]
        start += length + length // 10
    Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


def _in_nanoseconds(spans: list[TraceSpan]) -> Iterable[tuple[TraceSpan, int, int]]:
    """(span, begin, end) of consecutive spans, in whole nanoseconds and without overlaps.

    Perfetto drops overlapping spans. If begin and length were rounded separately, that would be every eighth dispatch
    on a clock whose ticks are not whole nanoseconds.
    """
    begins = [round(1e9 * span.begin) for span in spans]
    ends = [round(1e9 * (span.begin + span.seconds)) for span in spans]
    return zip(spans, begins, map(min, ends, [*begins[1:], ends[-1]]))

"""Where a step's time goes: each op and kernel variant by the device's clock, and what the host does meanwhile.

In: a GGUF file and an open `Device` that has timestamps. Out: `StepProfile`s of a decode step and of a prefill step;
`write_trace` writes them as a Chrome trace. Timestamps between dispatches cost time of their own on some drivers (50
us each on llvmpipe), so a profiled step is slower than a plain one: `plain_seconds` says how long that takes.
"""

import json
import statistics
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..device.dispatch import Dispatch
from ..engine.contract import SequenceWork
from ..engine.runner import PAGE_SIZE, ModelRunner
from ..errors import RequestError
from ..models.load import load

STEPS = 5


@dataclass(frozen=True)
class VariantTime:
    """All dispatches of one op and kernel variant in a step: seconds, bytes and floating-point operations are sums
    over them. num_bytes: what they bind, of caches and embeddings only what is used. flops: of matrix products; 0
    for other ops, which count none.
    """

    op: str
    variant: str
    calls: int
    seconds: float
    num_bytes: int
    flops: int

    @property
    def bytes_per_second(self) -> float:
        return self.num_bytes / self.seconds if self.seconds else 0.0

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Span:
    """Something that took time. begin: seconds since the step began."""

    name: str
    begin: float
    seconds: float
    facts: dict


@dataclass(frozen=True)
class StepProfile:
    """Medians over STEPS. phase: "decode" or "prefill"; context: tokens stored before it; device_seconds: the sum of
    all dispatches; step_seconds: the host's, with timestamps; plain_seconds: without. device, host: the last step's
    spans, dispatches one after another from the moment on at which the host submitted them.
    """

    phase: str
    tokens: int
    context: int
    variants: list[VariantTime]
    step_seconds: float
    plain_seconds: float
    device: list[Span]
    host: list[Span]

    @property
    def device_seconds(self) -> float:
        return sum(each.seconds for each in self.variants)

    def as_dict(self) -> dict:
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


def profile(path, device, *, prompt_tokens: int = 128, context: int = 128) -> list[StepProfile]:
    """A decode step after `context` tokens and a prefill step of `prompt_tokens`, at most a chunk.

    Raises RequestError where the device has no clock or one that stands still, and what `models.load` and
    `ModelRunner` raise.
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


def _profile(runners, phase, tokens, context) -> StepProfile:
    plain, timed = ([], []), ([], [])
    steps = []
    for runner, (seconds, _) in zip(runners, (plain, timed)):
        sequence, random = runner.open_sequence(), np.random.default_rng(1)
        if context:
            runner.step([SequenceWork(sequence, random.integers(0, runner.vocab_size, context).tolist(), 1)])
        for _ in range(STEPS + 1):
            work = [SequenceWork(sequence, random.integers(0, runner.vocab_size, tokens).tolist(), 1)]
            begin = time.perf_counter()
            runner.step(work)
            seconds.append(time.perf_counter() - begin)
            if runner is runners[1]:
                steps.append(runner.executor.timings())
            runner.truncate(sequence, context)
        runner.close_sequence(sequence)
    runner = runners[1]
    medians = [statistics.median(step[at][1] for step in steps[1:]) for at in range(len(steps[-1]))]
    if not any(medians):
        raise RequestError(
            f"{runner.model.device.info.name}: its clock stands still, so there is nothing to profile with; is it a "
            f"mock device?"
        )
    host = _host_spans(runner.executor.phases, begin)
    return StepProfile(
        phase,
        tokens,
        context,
        _variants(runner, steps[-1], medians, tokens, context),
        statistics.median(timed[0][1:]),
        statistics.median(plain[0][1:]),
        _device_spans(runner, steps[-1], host),
        host,
    )


def _variants(runner, step, medians, tokens, context) -> list[VariantTime]:
    """By op and variant, the longest first."""
    sums = defaultdict(lambda: [0, 0.0, 0, 0])
    for (dispatch, _), seconds in zip(step, medians):
        sums[dispatch.label, dispatch.shader] = [
            old + new
            for old, new in zip(
                sums[dispatch.label, dispatch.shader],
                (1, seconds, moved_bytes(dispatch, runner, tokens, context + tokens), dispatch.flops),
            )
        ]
    return sorted((VariantTime(*key, *values) for key, values in sums.items()), key=lambda each: -each.seconds)


def moved_bytes(dispatch: Dispatch, runner: ModelRunner, tokens: int, length: int) -> int:
    """Bytes that a dispatch reads and writes: what it binds, but of an embedding the rows of `tokens`, and of a
    cache what is filled (`length` tokens) or, where it is only written, what is stored.
    """
    cache = {tensor.buffer for pair in runner.storage.layers for tensor in pair}
    pages = runner.storage.num_pages * PAGE_SIZE
    total = 0.0
    for buffer in {*dispatch.reads, *dispatch.writes}:
        share = 1.0
        if dispatch.label == "embed" and buffer in dispatch.reads[1:]:
            share = min(1.0, tokens / runner.vocab_size)
        elif buffer in cache:
            share = (tokens if dispatch.label in ("kv_write", "split_heads") else length) / pages
        total += buffer.num_bytes * share
    return int(total)


def _host_spans(phases, begin) -> list[Span]:
    return [Span(name, start - begin, end - start, {}) for name, start, end in phases]


def _device_spans(runner, step, host: list[Span]) -> list[Span]:
    at, spans = (
        next(span.begin for span in host if span.name == "submit"),
        [],
    )  # the device may begin before the call is over
    for dispatch, seconds in step:
        facts = {
            "shader": dispatch.shader,
            "groups": list(dispatch.groups),
            "bound bytes": dispatch.num_bytes,
            "flops": dispatch.flops,
        }
        spans.append(Span(dispatch.label or dispatch.shader, at, seconds, facts))
        at += seconds
    return spans


def write_trace(path, profiles: list[StepProfile], device_name: str) -> None:
    """A JSON file for ui.perfetto.dev: the steps one after another, a track for the device and one for the host.

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
        step = Span(
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


def _in_nanoseconds(spans: list[Span]):
    """Spans that follow each other -> (span, begin, end), whole numbers, none ending after the next one begins.

    Perfetto counts in nanoseconds and leaves out what overlaps: with begin and length rounded apart that is every
    eighth dispatch, on a clock whose ticks are no whole nanoseconds.
    """
    begins, ends = (
        [round(1e9 * span.begin) for span in spans],
        [round(1e9 * (span.begin + span.seconds)) for span in spans],
    )
    return zip(spans, begins, map(min, ends, [*begins[1:], ends[-1]]))

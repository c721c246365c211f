"""Measures a model's speed, its distance from the device's peak, and its memory.

In: a GGUF file, an open `Device` or None for the CPU. Out: `Result`: rates of prefill and decode, the least that they
must move and compute, the time until the first token, memory. Every round measures all sizes, so that a busy minute
affects all of them.
"""

import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..device.context import Device
from ..device.host_memory import peak_resident_bytes, resident_bytes
from ..engine.contract import SequenceWork
from ..engine.runner import ModelRunner
from ..errors import RequestError
from ..graph.step import LogitsRow
from ..loading import LoadedLayers, load
from .device_speed import DeviceSpeed, measure_device
from .work import Work

ROUNDS = 3
FIRST_PROMPT = 16  # tokens before decoding begins, also for the time until the first token
LONG_CONTEXTS = (64, 2048)
LONG_STEPS = 16
WARM_STEPS = 2

Key = tuple[str, int, int, int]  # phase, tokens, batch, context


@dataclass(frozen=True)
class Rate:
    """Tokens per second: the median of all rounds, the slowest and the fastest.

    tokens: length of the prompt, or tokens decoded by each sequence
    batch: number of sequences
    context: tokens stored when decoding begins
    num_bytes, flops: the least that must be moved and computed
    """

    phase: str
    tokens: int
    batch: int
    context: int
    rate: float
    slowest: float
    fastest: float
    num_bytes: int
    flops: int

    @property
    def seconds(self) -> float:
        """Duration at the median rate."""
        return self.tokens * self.batch / self.rate

    @property
    def bytes_per_second(self) -> float:
        """`num_bytes` over the median time."""
        return self.num_bytes / self.seconds

    @property
    def flops_per_second(self) -> float:
        """`flops` over the median time."""
        return self.flops / self.seconds

    def as_dict(self, speed: DeviceSpeed | None) -> dict:
        """All figures, with the shares of the device's peak rates if they are known."""
        figures = asdict(self) | {
            "bytes_per_second": self.bytes_per_second,
            "flops_per_second": self.flops_per_second,
        }
        if speed is not None:
            figures["share_of_bandwidth"] = self.bytes_per_second / speed.bandwidth
            figures["share_of_f32"] = self.flops_per_second / speed.f32
        return figures


@dataclass(frozen=True)
class Memory:
    """Memory in bytes.

    device_other: peak of what was allocated on the device besides weights and cache: activations, results, staging
    process: resident memory of the process; process_before: before the model was loaded; process_peak: its maximum
    """

    weights: int
    cache: int
    device_other: int
    process_before: int
    process: int
    process_peak: int


@dataclass
class Result:
    """All that was measured.

    load_seconds: from the file to weights in place
    first_token_seconds: from then to the first token after FIRST_PROMPT others, including recording and compiling
    weights: number of weights in the products of one token
    """

    model: str
    architecture: str
    device: str
    load_seconds: float
    first_token_seconds: float
    weights: int
    weight_bytes: int
    memory: Memory
    speed: DeviceSpeed | None
    rates: list[Rate] = field(default_factory=list)

    def as_dict(self) -> dict:
        """All figures, as JSON can hold them."""
        return asdict(self) | {"rates": [rate.as_dict(self.speed) for rate in self.rates]}


def bench(
    path: str | Path,
    device: Device | None = None,
    *,
    prompts: Sequence[int] = (16, 128, 512),
    batches: Sequence[int] = (1, 2, 4, 8),
    tokens: int = 32,
    long: bool = False,
    rounds: int = ROUNDS,
) -> Result:
    """Measure prefill of prompts of random tokens, and decoding `tokens` tokens of several sequences together.

    prompts: lengths in tokens; batches: numbers of sequences; long: also decode after LONG_CONTEXTS
    Raises RequestError for sizes below 1 or beyond the model's context, and what `loading.load` and `ModelRunner`
    raise.
    """
    _check_sizes(prompts, batches, tokens, rounds)
    speed = measure_device(device) if device else None
    # Otherwise an earlier model in a reference cycle could be freed during the measurement and falsify it.
    gc.collect()
    process_before = resident_bytes()
    allocated_before = 0
    if device is not None:
        device.peak_bytes = device.allocated_bytes
        allocated_before = device.allocated_bytes - device.ring_bytes
    start = time.perf_counter()
    model = load(path, device)
    load_seconds = time.perf_counter() - start
    measured = _Measurement(model, prompts, batches, tokens, long)
    first_token_seconds = measured.first_token()
    for each in range(rounds + 1):
        measured.round(is_counted=each > 0)
    weights = model.num_bytes
    cache = measured.runner.storage.num_bytes
    memory = Memory(
        weights,
        cache,
        device.peak_bytes - allocated_before - weights - cache if device else 0,
        process_before,
        resident_bytes(),
        peak_resident_bytes(),
    )
    if device is not None and speed is not None:
        # Again: if the machine has become faster in the meantime, shares of its speed must not exceed 1.
        speed = speed.or_better(measure_device(device))
    return Result(
        str(path),
        model.architecture,
        device.info.name if device else "CPU (numpy)",
        load_seconds,
        first_token_seconds,
        measured.work.weights,
        measured.work.weight_bytes,
        memory,
        speed,
        measured.rates(),
    )


def _check_sizes(prompts: Sequence[int], batches: Sequence[int], tokens: int, rounds: int) -> None:
    if tokens < 1 or rounds < 1 or any(each < 1 for each in (*prompts, *batches)):
        raise RequestError(
            f"prompts of {list(prompts)} tokens, {list(batches)} sequences, {tokens} decoded, {rounds} rounds; all "
            f"must be at least 1"
        )


class _Measurement:
    """One runner, and the seconds of each (phase, tokens, batch, context) in each round."""

    def __init__(self, model: LoadedLayers, prompts: Sequence[int], batches: Sequence[int], tokens: int, long: bool):
        self.tokens = tokens
        self.prompts = prompts
        self.batches = batches
        limit = model.config.context_length
        self.contexts = [min(context, limit - LONG_STEPS) for context in LONG_CONTEXTS] if long else []
        longest = max(
            *prompts, FIRST_PROMPT + max(tokens, WARM_STEPS), *(context + LONG_STEPS for context in self.contexts), 1
        )
        if longest > limit:
            raise RequestError(
                f"{longest} tokens do not fit the context of {limit} tokens that the model was trained for; use fewer"
            )
        self.vocab_size = model.config.vocab_size
        self.work = Work(model)
        self.runner = ModelRunner(
            model, context_length=longest, max_sequences=max(*batches, len(self.contexts), 1), tuned_at=1
        )
        self.sequences = [self.runner.open_sequence() for _ in range(self.runner.max_sequences)]
        self.seconds: dict[Key, list[float]] = {}

    def first_token(self) -> float:
        """Seconds until the first token of a prompt."""
        start = time.perf_counter()
        self._fill(self.sequences[0], FIRST_PROMPT)
        return time.perf_counter() - start

    def round(self, is_counted: bool) -> None:
        """Measure all sizes. A first round, which is not counted, records steps and compiles kernels."""
        for prompt in self.prompts:
            self._keep(is_counted, ("prefill", prompt, 1, 0), self._prefill(prompt))
        for batch in self.batches:
            seconds = self._decode(self.sequences[:batch], FIRST_PROMPT, self.tokens if is_counted else WARM_STEPS)
            self._keep(is_counted, ("decode", self.tokens, batch, FIRST_PROMPT), seconds)
        for sequence, context in zip(self.sequences, self.contexts):
            self._keep(
                is_counted,
                ("decode", LONG_STEPS, 1, context),
                self._decode([sequence], context, LONG_STEPS if is_counted else 1),
            )

    def _keep(self, is_counted: bool, key: Key, seconds: float) -> None:
        if is_counted:
            self.seconds.setdefault(key, []).append(seconds)

    def _fill(self, sequence: int, length: int) -> None:
        """Drop or run tokens until `sequence` has `length`."""
        if self.runner.length(sequence) > length:
            try:
                self.runner.truncate(sequence, length)
            except ValueError:  # a window before `length` was freed
                self.runner.truncate(sequence, 0)
        missing = length - self.runner.length(sequence)
        if missing:
            prompt = np.random.default_rng(length).integers(0, self.vocab_size, missing).tolist()
            self.runner.step([SequenceWork(sequence, prompt, 1)])

    def _prefill(self, tokens: int) -> float:
        self.runner.truncate(self.sequences[0], 0)
        start = time.perf_counter()
        self._fill(self.sequences[0], tokens)
        return time.perf_counter() - start

    def _decode(self, sequences: Sequence[int], context: int, steps: int) -> float:
        for sequence in sequences:
            self._fill(sequence, context)
        tokens = [1] * len(sequences)
        start = time.perf_counter()
        for _ in range(steps):
            rows = self.runner.step([SequenceWork(sequence, [token], 1) for sequence, token in zip(sequences, tokens)])
            tokens = [int(row.ids[0]) for row in rows if isinstance(row, LogitsRow)]
        return time.perf_counter() - start

    def rates(self) -> list[Rate]:
        """The rates of all rounds."""
        found = []
        for (phase, tokens, batch, context), seconds in self.seconds.items():
            if phase == "prefill":
                num_bytes = self.work.prefill_bytes(tokens, self.runner.prefill_chunk)
                flops = self.work.prefill_flops(tokens)
            else:
                num_bytes = sum(self.work.decode_bytes(batch, context + step + 1) for step in range(tokens))
                flops = tokens * self.work.decode_flops(batch)
            rates = [tokens * batch / each for each in seconds]
            found.append(
                Rate(phase, tokens, batch, context, statistics.median(rates), min(rates), max(rates), num_bytes, flops)
            )
        return found

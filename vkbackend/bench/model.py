"""How fast a model runs here, and how far that is from what the memory allows.

In: a GGUF file, an open `Device` or None for the numpy twins. Out: `Result`: prefill and decode in tokens per second (the median of
REPEATS), bytes moved per token, and with a device its measured bandwidth and the time of each op in a decode step, from the device's clock.
"""

import statistics
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field

import numpy as np

from ..device.dispatch import Dispatch
from ..engine.runner import PAGE_SIZE, ModelRunner
from ..engine.work import SequenceWork
from ..errors import RequestError
from ..models import LoadedModel, load
from .device_speed import Bandwidth, measure_bandwidth

REPEATS = 3
WARM_STEPS = 2
PROFILED_STEPS = 5


@dataclass(frozen=True)
class OpTime:
    """All dispatches of one label in a decode step: seconds and bytes are sums over them."""

    label: str
    dispatches: int
    seconds: float
    num_bytes: int

    @property
    def bytes_per_second(self) -> float:
        return self.num_bytes / self.seconds if self.seconds else 0.0


@dataclass
class Result:
    """Rates in tokens per second. weights: those of the matrix products of one token; bytes_per_token: what a decode step must move."""

    model: str
    architecture: str
    device: str
    prompt_tokens: int
    decoded_tokens: int
    load_seconds: float
    prefill_rate: float
    decode_rate: float
    weights: int
    bytes_per_token: int
    bandwidth: Bandwidth | None = None
    ops: list[OpTime] = field(default_factory=list)

    @property
    def nanoseconds_per_weight(self) -> float:
        return 1e9 / self.decode_rate / self.weights

    @property
    def bytes_per_second(self) -> float:
        """What decode moves."""
        return self.bytes_per_token * self.decode_rate

    @property
    def share_of_bandwidth(self) -> float | None:
        return self.bytes_per_second / self.bandwidth.best if self.bandwidth else None

    def as_dict(self) -> dict:
        ops = [asdict(op) | {"bytes_per_second": op.bytes_per_second} for op in self.ops]
        return asdict(self) | {"nanoseconds_per_weight": self.nanoseconds_per_weight, "bytes_per_second": self.bytes_per_second,
                               "share_of_bandwidth": self.share_of_bandwidth, "ops": ops}


def bench(path, device=None, *, prompt_tokens: int = 128, tokens: int = 64) -> Result:
    """Prefill `prompt_tokens` random tokens, then decode `tokens` more.

    Raises RequestError for sizes below 1, and what `models.load` and `ModelRunner` raise.
    """
    if prompt_tokens < 1 or tokens < 1:
        raise RequestError(f"a prompt of {prompt_tokens} tokens and {tokens} decoded; both must be at least 1")
    start = time.perf_counter()
    model = load(path, device)
    load_seconds = time.perf_counter() - start
    context = prompt_tokens + max(tokens, WARM_STEPS, PROFILED_STEPS)
    prefill_rate, decode_rate = _rates(model, context, prompt_tokens, tokens)
    result = Result(str(path), model.architecture, device.info.name if device else "CPU (numpy twins)", prompt_tokens, tokens, load_seconds,
                    prefill_rate, decode_rate, _matrix_weights(model), _file_bytes_per_token(model))
    if device is not None:
        result.bandwidth = measure_bandwidth(device)
        if device.info.timestamp_bits:
            result.ops = _profile(model, context, prompt_tokens)
            result.bytes_per_token = sum(op.num_bytes for op in result.ops)
    return result


def _prompt(model: LoadedModel, count: int) -> list[int]:
    return np.random.default_rng(1).integers(0, model.config.vocab_size, count).tolist()


def _rates(model, context, prompt_tokens, tokens) -> tuple[float, float]:
    """-> tokens per second of prefill and decode."""
    runner, prompt = ModelRunner(model, context_length=context), _prompt(model, prompt_tokens)
    sequence = runner.open_sequence()
    prefills, decodes = [], []
    for repeat in range(REPEATS + 1):
        runner.truncate(sequence, 0)
        start = time.perf_counter()
        rows = runner.step([SequenceWork(sequence, prompt, 1)])
        prefilled = time.perf_counter()
        for _ in range(tokens if repeat else min(tokens, WARM_STEPS)):
            rows = runner.step([SequenceWork(sequence, [int(rows[0].ids[0])], 1)])
        if repeat:  # the first records plans and compiles kernels
            prefills.append(prompt_tokens / (prefilled - start))
            decodes.append(tokens / (time.perf_counter() - prefilled))
    runner.close_sequence(sequence)
    return statistics.median(prefills), statistics.median(decodes)


def _matrices(model: LoadedModel):
    """Tensors that a decode step multiplies with: every matrix, but an embedding only where it is the output's matrix too."""
    tensors = model.gguf.tensors
    for name, info in tensors.items():
        if len(info.shape) == 2 and not (name == "token_embd.weight" and "output.weight" in tensors):
            yield info


def _matrix_weights(model) -> int:
    return sum(int(np.prod(info.shape)) for info in _matrices(model))


def _file_bytes_per_token(model) -> int:
    return sum(info.num_bytes for info in _matrices(model))


def _profile(model: LoadedModel, context: int, prompt_tokens: int) -> list[OpTime]:
    """Time by label of a decode step after the prompt: for each dispatch the median of PROFILED_STEPS; the longest label first."""
    runner, prompt = ModelRunner(model, context_length=context, timestamps=True), _prompt(model, prompt_tokens)
    sequence = runner.open_sequence()
    rows = runner.step([SequenceWork(sequence, prompt, 1)])
    steps = []
    for _ in range(PROFILED_STEPS):
        rows = runner.step([SequenceWork(sequence, [int(rows[0].ids[0])], 1)])
        steps.append(runner.executor.timings())
    counts, seconds, moved = defaultdict(int), defaultdict(float), defaultdict(int)
    for at, (dispatch, _) in enumerate(steps[-1]):
        counts[dispatch.label] += 1
        seconds[dispatch.label] += statistics.median(step[at][1] for step in steps)
        moved[dispatch.label] += _moved_bytes(dispatch, runner, prompt_tokens + PROFILED_STEPS)
    runner.close_sequence(sequence)
    return sorted((OpTime(label, counts[label], seconds[label], moved[label]) for label in counts), key=lambda op: -op.seconds)


def _moved_bytes(dispatch: Dispatch, runner: ModelRunner, length: int) -> int:
    """Bytes that a one-token dispatch reads and writes: what it binds, but one row of an embedding, and of a cache what is filled."""
    cache = {tensor.buffer for pair in runner.storage.layers for tensor in pair}
    pages = runner.storage.num_pages * PAGE_SIZE
    total = 0.0
    for buffer in {*dispatch.reads, *dispatch.writes}:
        share = 1.0
        if dispatch.label == "embed" and buffer in dispatch.reads[1:]:
            share = 1 / runner.vocab_size
        elif buffer in cache:
            share = (1 if dispatch.label == "kv_write" else length) / pages
        total += buffer.num_bytes * share
    return int(total)

"""The host's share of a decode step: the time of Python and of driver calls, on a device that takes no time.

In: a GGUF file. Out: `HostShare`, measured on the Vulkan project's mock driver: the loader, kp and the recordings are
real, the device does nothing. Measured is all that the engine does, from tokens to candidates to text at a listener.
`python -m vkbackend.bench.host PATH TOKENS BATCH CONTEXT` prints it as JSON; `measure_apart` runs that in a process
that sees only the mock driver.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from .. import settings
from ..device.context import Device
from ..device.device_info import DeviceInfo
from ..engine.contract import SequenceWork
from ..engine.engine import Engine
from ..engine.request import Event, Failed, Finished, GenerationRequest, SamplingOptions, default_options
from ..engine.runner import PREFILL_CHUNK, ModelRunner
from ..errors import DeviceError, NoDevice, RequestError, VkbackendError
from ..graph.executor import DeviceExecutor
from ..graph.recorded_step import RecordedStep
from ..graph.step import PageTable, StepInputs
from ..loading import load
from ..ops.op import ceil_div
from ..tokenizer import Tokenizer

CANDIDATES_OF_A_ROW = 200  # what top_k typically leaves: 128, and others of the same strips
WARM_STEPS = 20
MOCK_BYTES = 1 << 40


@dataclass(frozen=True)
class HostShare:
    """Medians over `steps` steps of `batch` sequences, in milliseconds.

    context: tokens that each sequence has in the cache before
    turn_ms: a turn of the engine, from the first event of a step to that of the next
    step_ms: the runner's part of it, from tokens to rows of candidates
    prompt_token_ms: CPU time of a token of a prompt of `context` tokens, from the request to the first event; 0 without
        context
    dispatches: their number in a recorded step
    """

    model: str
    device: str
    batch: int
    context: int
    steps: int
    dispatches: int
    turn_ms: float
    step_ms: float
    prompt_token_ms: float


def mock_manifest() -> Path:
    """The mock driver's ICD file. Raises NoDevice if it is missing."""
    path = settings.cache_folder() / "swiftshader" / "usr" / "lib" / "chromium" / "mock_icd.json"
    if not (path.exists() and path.with_name("libVkICD_mock_icd.so").exists()):
        raise NoDevice(f"the mock Vulkan driver is missing ({path}); `bash scripts/setup.sh --tests` fetches it")
    return path


def measure_apart(path: str | Path, *, tokens: int, batch: int = 1, context: int = 0) -> HostShare:
    """Run `measure` on the mock driver, in another process. Raises NoDevice if the driver is missing, VkbackendError if
    the process fails.
    """
    manifest = str(mock_manifest())
    environment = os.environ | {
        "VK_DRIVER_FILES": manifest,
        "VK_ICD_FILENAMES": manifest,
        "GGML_VK_VISIBLE_DEVICES": "",
        "VKBACKEND_AUTOTUNE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(path), str(tokens), str(batch), str(context)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise VkbackendError(
            f"measuring on the mock driver failed: "
            f"{done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}"
        )
    return HostShare(**json.loads(done.stdout.splitlines()[-1]))


def measure(path: str | Path, device: Device, *, tokens: int, batch: int = 1, context: int = 0) -> HostShare:
    """Measure the host's share on a device that computes nothing: the rows of candidates are written here, once.

    context: rounded up to whole chunks of a prompt. Raises RequestError if it is given for several sequences, and what
    loading raises.
    """
    if context and batch > 1:
        raise RequestError(f"a context of {context} tokens is measured with one sequence, not {batch}")
    model = load(path, device)
    tokenizer = Tokenizer.from_gguf(model.gguf)
    # After whole chunks, the last step of a prompt has one token, as a decode step has: its candidates are written.
    context = ceil_div(context, PREFILL_CHUNK) * PREFILL_CHUNK
    runner = ModelRunner(model, context_length=context + WARM_STEPS + 2 * tokens + 2, max_sequences=batch)
    plan = _fill_candidates(runner, tokenizer, batch)
    step_seconds = _steps(runner, tokens, batch, context)
    with Engine(runner, tokenizer) as engine:
        first_seconds, turn_seconds = _turns(engine, default_options(model.architecture), tokens, batch, context)
    return HostShare(
        model=str(path),
        device=device.info.name,
        batch=batch,
        context=context,
        steps=tokens,
        dispatches=len(plan.dispatches),
        turn_ms=1e3 * statistics.median(turn_seconds),
        step_ms=1e3 * statistics.median(step_seconds),
        prompt_token_ms=1e3 * first_seconds / context if context else 0.0,
    )


def _fill_candidates(runner: ModelRunner, tokenizer: Tokenizer, batch: int) -> RecordedStep:
    """Record the step of `batch` tokens, write its results, which the device does not, and return the recorded step."""
    executor = runner.executor
    assert isinstance(executor, DeviceExecutor), "the model is on the device"
    ones = np.ones(batch, np.int32)
    tables = [PageTable(np.zeros(executor.table_shape, np.int32)) for _ in executor.cache.layout.groups]
    shape = executor.step_shape(
        StepInputs(ones, 0 * ones, np.arange(batch, dtype=np.int32), tables, np.arange(batch, dtype=np.int32))
    )
    plan = executor.plan(shape)
    usual = [
        token
        for token in range(runner.vocab_size)
        if len(tokenizer.token_bytes(token)) > 1 and tokenizer.token_bytes(token).isalnum()
    ]
    if len(usual) < 2:
        raise VkbackendError("the model's vocabulary has no words to sample")
    ids = np.resize(np.array(usual, np.int32), CANDIDATES_OF_A_ROW)
    stats, counts, all_ids, values = (view.buffer.array(view.dtype, view.shape) for view in plan.results)
    counts[:] = len(ids)
    all_ids[:, : len(ids)] = ids
    values[:, : len(ids)] = np.random.default_rng(0).uniform(-4, 8, (len(values), len(ids)))
    stats[:, 0] = 12.0
    return plan


def _steps(runner: ModelRunner, tokens: int, batch: int, context: int) -> list[float]:
    """The duration of each of the runner's steps in seconds."""
    sequences = [runner.open_sequence() for _ in range(batch)]
    if context:
        for sequence in sequences:
            runner.step([SequenceWork(sequence, [1] * context, 0)])
    found = []
    for _ in range(WARM_STEPS + tokens):
        start = time.perf_counter()
        runner.step([SequenceWork(sequence, [1], 1) for sequence in sequences])
        found.append(time.perf_counter() - start)
    for sequence in sequences:
        runner.close_sequence(sequence)
    return found[WARM_STEPS:]


def _turns(
    engine: Engine, options: SamplingOptions, tokens: int, batch: int, context: int
) -> tuple[float, list[float]]:
    """The CPU seconds until the first event, and the seconds of each turn of the engine while all `batch` generations
    run.
    """
    times: list[float] = []
    at_first = 0.0
    left = batch
    over = threading.Event()

    def listener(event: Event, of_first: bool) -> None:
        nonlocal left, at_first
        if of_first:
            at_first = at_first or time.process_time()
            times.append(time.perf_counter())
        if isinstance(event, (Finished, Failed)):
            left -= 1
            if not left:
                over.set()

    begin = time.process_time()
    for number in range(batch):  # prompts that differ from their first token on
        request = GenerationRequest([number + 1] * (context + 1), options, num_predict=WARM_STEPS + tokens)
        engine.submit(request, lambda event, of_first=number == 0: listener(event, of_first))
    over.wait()
    if engine.failure is not None:
        raise engine.failure
    return at_first - begin, np.diff(times[:-1])[WARM_STEPS:].tolist()  # the last event brings no token


def _unlimited(info: DeviceInfo) -> Device:
    """The device, opened without its limits on bindings and memory: a driver that does nothing keeps to none, and a
    model's cache may be larger.
    """
    limits = replace(info.limits, max_storage_buffer_range=MOCK_BYTES, max_texel_buffer_elements=MOCK_BYTES)
    return Device(replace(info, limits=limits, memory_total=MOCK_BYTES, memory_free=MOCK_BYTES))


def main(path: str, tokens: str, batch: str, context: str) -> int:
    """Print the measurement on the first device as JSON. Returns the exit status."""
    from ..device.choosing import choose
    from ..device.discover import list_devices

    try:
        device = _unlimited(choose(list_devices()).device)
        found = measure(path, device, tokens=int(tokens), batch=int(batch), context=int(context))
        print(json.dumps(asdict(found)))
    except (DeviceError, VkbackendError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

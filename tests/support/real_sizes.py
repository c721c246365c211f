"""Measures whole models of real shape and writes the table of docs/performance.md; scripts/real_sizes.sh starts it.

real_sizes.py measure FOLDER MODEL.gguf [PART ...]    keeps the figures of a model in FOLDER, a JSON file for each part
real_sizes.py agree FOLDER MODEL.gguf F32.gguf        likewise: log-probabilities beside llama.cpp with float32 weights
real_sizes.py table FOLDER [DOCUMENT]                 prints tables of all that is kept, or writes them into DOCUMENT

Each engine runs in a process of its own. Every part can be repeated alone. Servers are measured in turns, so that a
busy minute affects all of them; their CPU seconds, of all threads, hardly depend on what else the machine does.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import real_sizes_table
from places import DATA, SUPPORT

from vkbackend.bench.compare import ATTEMPTS, words
from vkbackend.bench.host import measure_apart
from vkbackend.errors import VkbackendError

MEBIBYTE = 1 << 20
SAMPLE_SECONDS = 0.02
DEVICE_GIB = "12"  # llvmpipe reports 2 GiB, but allocates what it is asked for
CONTEXTS = (1_000, 32_000, 128_000)
HOST_STEPS = 100
PROMPTS = tuple(int(length) for length in os.environ.get("PROMPTS", "128,2000").split(","))  # in words of one token
TOKENS = int(os.environ.get("TOKENS", "16"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
PATHS = os.environ.get("PATHS", "vulkan cpu").split()  # whose memory is measured
SHORT_WORDS = 8
LONGEST_WARM = 256
SCORED_TOKENS = 256
MOST_DIFFERENCE = 0.02  # mean, of log-probabilities


class Sizes(NamedTuple):
    """What is measured: prompts in words of one token, and a number of decoded tokens."""

    prompts: tuple[int, ...]
    tokens: int


FULL = Sizes(PROMPTS, TOKENS)
SLOW = Sizes((16,), 4)


class EngineProcess:
    """A process of real_engine.py.

    loaded: what it says about loading. peak_bytes, after_bytes: its private memory while it loaded, and then
    """

    def __init__(self, program: str, model: Path):
        environment = os.environ | {"DEVICE_GIB": DEVICE_GIB}
        self.process = subprocess.Popen(
            [sys.executable, SUPPORT / "real_engine.py", program, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        with _sampling(self.process.pid) as samples:
            self.loaded = self._read()
        self.after_bytes = private_bytes(self.process.pid)
        self.peak_bytes = max(*samples, self.after_bytes)

    def ask(self, num_words: int, tokens: int, texts: random.Random) -> dict:
        """The timing of an answer to random words."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompt": words(texts, num_words), "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise VkbackendError(f"{self.process.args} ended with status {self.process.returncode}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


@contextmanager
def _sampling(pid: int) -> Iterator[list[int]]:
    """The private memory of a process, sampled during the body."""
    samples = [0]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            try:
                samples.append(private_bytes(pid))
            except (OSError, ValueError):  # the process has ended
                return

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def private_bytes(pid: int) -> int:
    """Anonymous and shared memory of a process, without mapped files."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {name: int(size.split()[0]) for name, size in (line.split(":") for line in lines)}
    return (kilobytes["Pss_Anon"] + kilobytes["Pss_Shmem"]) << 10


def memory(model: Path) -> dict:
    """Memory and CPU seconds of loading, on both paths, after a first load that fills caches of kernels."""
    found: dict = {"file_bytes": model.stat().st_size}
    for path in PATHS:
        engine = EngineProcess(path, model)
        engine.ask(SHORT_WORDS, 2, random.Random(0))
        answered_bytes = private_bytes(engine.process.pid)
        engine.close()
        found[path] = engine.loaded | {
            "peak_bytes": engine.peak_bytes,
            "after_bytes": engine.after_bytes,
            "answered_bytes": answered_bytes,
        }
    return found


def host(model: Path) -> dict:
    """The host's milliseconds of a decode step and of a token of a prompt, by the length of the context."""
    found = [measure_apart(model, tokens=HOST_STEPS, context=context) for context in CONTEXTS]
    return {str(each.context): {"turn_ms": each.turn_ms, "prompt_token_ms": each.prompt_token_ms} for each in found}


def cpu_speed(model: Path) -> dict:
    """The CPU path and llama.cpp on the CPU, both with one and with two threads."""
    return speed(model, {f"{name} {threads}": FULL for threads in (1, 2) for name in ("cpu", "llama.cpp")})


def vulkan_speed(model: Path) -> dict:
    """The Vulkan path, and llama.cpp's Vulkan backend at sizes that it can do on a CPU."""
    peer = {"llama.cpp vulkan": SLOW} if os.environ.get("LLAMA_SERVER") else {}
    return speed(model, {"vulkan": Sizes((*SLOW.prompts, *FULL.prompts), FULL.tokens), **peer})


def speed(model: Path, programs: dict[str, Sizes]) -> dict:
    """Rates of all programs in turns: {program: {size: {"rate", "cpu_rate"}}}, medians of tokens per second and per CPU
    second.
    """
    engines = {name: EngineProcess(name, model) for name in programs}
    texts = random.Random(7)
    rates: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in engines}
    for name, engine in engines.items():  # kernels are compiled and measured
        _rates(engine, Sizes(tuple(min(length, LONGEST_WARM) for length in programs[name].prompts), 2), texts)
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            for size, found in _rates(engine, programs[name], texts).items():
                rates[name].setdefault(size, []).append(found)
    for engine in engines.values():
        engine.close()
    return {name: {size: _median(values) for size, values in sizes.items()} for name, sizes in rates.items()}


def _rates(engine: EngineProcess, sizes: Sizes, texts: random.Random) -> dict[str, tuple[float, float]]:
    """Tokens per second and per CPU second of each size."""
    found = {}
    for length in sizes.prompts:
        answer = engine.ask(length, 1, texts)
        count = answer["prompt_tokens"]
        found[f"prefill {length}"] = count / answer["prompt_seconds"], count / answer["cpu_seconds"]
    one, several = (_longest(engine, tokens, texts) for tokens in (1, sizes.tokens + 1))
    later = several["tokens"] - 1
    cpu_seconds = max(several["cpu_seconds"] - one["cpu_seconds"], 1e-9)
    found["decode"] = later / several["decode_seconds"], later / cpu_seconds
    return found


def _longest(engine: EngineProcess, tokens: int, texts: random.Random) -> dict:
    """The timing of an answer of several tokens, if several are asked for: a model may end its answer at once."""
    for _ in range(ATTEMPTS):
        answer = engine.ask(SHORT_WORDS, tokens, texts)
        if min(tokens, 2) <= answer["tokens"]:
            return answer
    raise VkbackendError(f"{engine.process.args} ends its answers after one token, so decoding cannot be measured")


def _median(values: list[tuple[float, float]]) -> dict[str, float]:
    rates, cpu_rates = zip(*values)
    return {"rate": statistics.median(rates), "cpu_rate": statistics.median(cpu_rates)}


def agree(model: Path, expanded: Path) -> dict:
    """Mean difference of the log-probabilities of a text to those of llama.cpp with float32 weights, on both paths."""
    with tempfile.TemporaryDirectory() as folder:
        recorded = Path(folder) / "logprobs.json"
        text = DATA / "english.txt"
        command = [sys.executable, SUPPORT / "prompt_logprobs_llama_cpp.py", expanded, recorded, "logprobs", text]
        _run([*command, str(SCORED_TOKENS + 1)])
        theirs = json.loads(recorded.read_text())
    found = {}
    for path in ("vulkan", "cpu"):
        environment = {"DEVICE_GIB": DEVICE_GIB, "VKBACKEND_CPU": "exact"}
        command = [sys.executable, SUPPORT / "session_logprobs.py", path, model]
        ours = json.loads(_run(command, environment, json.dumps(theirs["tokens"])))
        found[path] = statistics.fmean(abs(a - b) for a, b in zip(ours, theirs["logprobs"], strict=True))
    return found


def _run(command: list, environment: dict[str, str] | None = None, given: str = "") -> str:
    """The last line that a program prints. Raises VkbackendError if it fails."""
    done = subprocess.run(command, input=given, env=os.environ | (environment or {}), capture_output=True, text=True)
    if done.returncode:
        raise VkbackendError(f"{command}: {done.stderr[-2000:]}")
    return done.stdout.rstrip().rpartition("\n")[2]


PARTS: dict[str, Callable[[Path], dict]] = {
    "memory": memory,
    "host": host,
    "cpu_speed": cpu_speed,
    "vulkan_speed": vulkan_speed,
}


def main(command: str, folder: str, *arguments: str) -> int:
    """Returns the exit status: 1 if log-probabilities differ by more than MOST_DIFFERENCE."""
    kept = Path(folder)
    if command == "table":
        real_sizes_table.write(kept, *map(Path, arguments))
        return 0
    kept.mkdir(parents=True, exist_ok=True)
    model = Path(arguments[0])
    if command == "agree":
        found = agree(model, Path(arguments[1]))
        _keep(kept, model, "agreement", found)
        return int(max(found.values()) > MOST_DIFFERENCE)
    for part in arguments[1:] or PARTS:
        _keep(kept, model, part, PARTS[part](model))
    return 0


def _keep(folder: Path, model: Path, part: str, figures: dict) -> None:
    """Add to what is kept of the part: it may have been measured for another path or context."""
    path = folder / f"{model.stem}.{part}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | figures, indent=2))
    print(f"{model.stem} {part}: {json.dumps(figures)}", flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

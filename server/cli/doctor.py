"""`doctor`: everything a bug report needs, in one file: devices, a quick kernel check, 16 tokens on device and CPU.

Out: the report on stdout and in a file. Exit status 1 if a kernel fails or the tokens of device and CPU differ.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vkbackend import settings
from vkbackend.device.host_memory import total_host_memory
from vkbackend.device.selection import Survey, open_device, survey
from vkbackend.errors import VkbackendError

from ..go.human import human_bytes_binary
from ..version import version
from . import devices as device_words
from . import path_rates
from .main import Failure
from .path_rates import PathRates

if TYPE_CHECKING:
    from vkbackend.device.context import Device
    from vkbackend.engine.runner import ModelRunner

NUM_TOKENS = 16
ROUNDS = 3  # the first compiles kernels; the fastest counts
PROMPT = "The capital of France is"
CLOSE = 0.05  # mean difference of log-probabilities that rounding in the cache explains
PACKAGES = ("numpy", "kp", "gguf", "aiohttp", "llguidance")


@dataclass(frozen=True)
class Generated:
    """Tokens generated on one device, with their log-probabilities. rate: tokens per second after the first."""

    tokens: list[int]
    logprobs: list[float]
    rate: float
    text: str


@click.command()
@click.argument("model", required=False)
@click.option(
    "-o",
    "--output",
    "path",
    type=click.Path(dir_okay=False),
    default=None,
    help="Report file (default: vkbackend-report-TIME.txt in this folder).",
)
@click.option(
    "--speed",
    "speed_only",
    is_flag=True,
    help="Write no report; if there is a software driver and no GPU, only print whether it or the CPU is faster.",
)
def doctor(model: str | None, path: str | None, speed_only: bool) -> None:
    """Check devices, kernels and a model, and write a report.

    MODEL is a name or the path of a GGUF file (default: the first stored model).
    """
    if speed_only:
        return _print_speed(model)
    output = Path(path or time.strftime("vkbackend-report-%Y%m%d-%H%M%S.txt"))
    report = _Report()
    is_sound = True
    report.section("System", _system())
    found = survey()
    report.section("Devices", device_words.lines(found) + ([f"problem: {found.problem}"] if found.problem else []))
    device = _open(report, found)
    try:
        if device is not None:
            lines, is_sound = _check(device)
            report.section("Quick check of the kernels", lines)
        name, file = _model_file(model)
        if file is None:
            report.section("Generation", ["skipped: no model; name one: vkbackend doctor MODEL"])
        else:
            is_sound &= _generation(report, name, file, device)
    finally:
        if device is not None:
            device.close()
    try:
        output.write_text(report.text)
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror or error}") from None
    click.echo(f"Report: {output} (it contains the names of your models and folders, and nothing else that is private)")
    if not is_sound:
        raise click.exceptions.Exit(1)


class _Report:
    """Prints sections and keeps their text."""

    def __init__(self):
        self.text = ""

    def section(self, title: str, lines: list[str]) -> None:
        """Print a section and add it to the report."""
        text = "\n".join([f"== {title}", *lines, ""])
        self.text += text + "\n"
        click.echo(text)


def _system() -> list[str]:
    packages = ", ".join(f"{name} {_package(name)}" for name in PACKAGES)
    named = [f"{row.name}={settings.text(row.name)}" for row in settings.ROWS if settings.text(row.name)]
    return [
        f"vkbackend {version()}, Python {platform.python_version()}, {packages}",
        f"{platform.platform()}, {os.cpu_count()} cores, {human_bytes_binary(total_host_memory())}",
        "settings: " + (" ".join(named) or "none"),
    ]


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _open(report: _Report, found: Survey) -> Device | None:
    """Open the device that models would run on with OLLAMA_VULKAN=1, whether or not that is set."""
    if found.chosen is None:
        return None
    try:
        return open_device(found.chosen.index)
    except VkbackendError as error:
        report.section("Opening the device", [f"failed: {error}"])
        return None


def _check(device: Device) -> tuple[list[str], bool]:
    from vkbackend.check import check

    start = time.monotonic()
    results = list(check(device, quick=True))
    failed = [result for result in results if not result.passed]
    lines = [
        f"DIFFERS: {result.kernel} on {result.op} {result.case!r}: "
        f"{result.error or f'{result.worst:.3g} times the tolerance'}"
        for result in failed
    ]
    passed, seconds = len(results) - len(failed), time.monotonic() - start
    return lines + [f"{passed} passed, {len(failed)} failed in {seconds:.1f} s; `vkbackend check` runs all"], not failed


def _print_speed(model: str | None) -> None:
    """Print which path is faster if there is only a software driver. Measures once for a machine."""
    found = survey()
    if found.chosen is None or not found.chosen.is_cpu:
        return
    rates = path_rates.known(found.chosen)
    if rates is not None:
        return click.echo(rates.sentence(found.uses_device))
    name, file = _model_file(model)
    if file is not None:
        with closing(open_device(found.chosen.index)) as device:
            is_idle = path_rates.is_idle()
            on_device = generate(file, device).rate
            click.echo(_software_speed(name, device, on_device, generate(file, None).rate, is_idle))


def _software_speed(model: str, device: Device, on_device: float, on_cpu: float, is_idle: bool) -> str:
    """Which of a software driver and the CPU is faster. Keeps the rates if the machine was idle."""
    rates = PathRates(device.info.name, device.info.key, model, on_device, on_cpu)
    sentence = rates.sentence(settings.get("OLLAMA_VULKAN"))
    if not is_idle:
        return f"{sentence}; {path_rates.BUSY}"
    path_rates.remember(rates)
    return sentence


def _model_file(model: str | None) -> tuple[str, Path | None]:
    """The name and the file of a model; by default those of the first stored one."""
    from ..library.store import Store
    from .bench import gguf_path

    if model is not None:
        file = gguf_path(model)
        return (file.stem if file == Path(model) else model), file
    for stored in Store(settings.models_folder()).list():
        if stored.gguf_path:
            return stored.name, stored.gguf_path
    return "", None


def _generation(report: _Report, model: str, file: Path, device: Device | None) -> bool:
    """Compare the tokens of device and CPU. Returns whether they agree up to rounding."""
    from vkbackend.cpu.library import ggml

    lines, made = [f"{file}: {NUM_TOKENS} tokens after {PROMPT!r}"], {}
    is_idle = path_rates.is_idle()
    for name, place in ((device.info.name, device), ("CPU", None)) if device else (("CPU", None),):
        try:
            made[name] = generate(file, place)
            lines.append(f"{name}: {made[name].rate:.1f} tokens/s: {made[name].text!r}")
        except VkbackendError as error:
            lines.append(f"{name}: {type(error).__name__}: {error}")
    is_sound = len(made) == (2 if device else 1)
    if device and len(made) == 2:
        reference = made["CPU"]
        if ggml() is not None:  # it rounds activations to 8 bits
            with _exact_cpu():
                reference = generate(file, None)
        is_close, words = compare(made[device.info.name], reference)
        is_sound &= is_close
        lines.append(words)
        rates = made[device.info.name].rate, made["CPU"].rate
        lines.append(_software_speed(model, device, *rates, is_idle) if device.info.is_cpu else _speed(device, *rates))
    report.section("Generation", lines)
    return is_sound


def _speed(device: Device, on_device: float, on_cpu: float) -> str:
    """Whether a GPU or the CPU is faster for one answer at a time, and how to take it."""
    ratio = on_device / max(on_cpu, 1e-9)
    if ratio >= 1:
        return f"{device.info.name} is {ratio:.1f} times as fast as the CPU: set OLLAMA_VULKAN=1"
    return f"the CPU is {1 / max(ratio, 1e-9):.1f} times as fast as {device.info.name}: leave OLLAMA_VULKAN unset"


@contextmanager
def _exact_cpu() -> Iterator[None]:
    """Let the CPU path run the numpy references."""
    before = os.environ.get("VKBACKEND_CPU")
    os.environ["VKBACKEND_CPU"] = "exact"
    try:
        yield
    finally:
        if before is None:
            del os.environ["VKBACKEND_CPU"]
        else:
            os.environ["VKBACKEND_CPU"] = before


def compare(on_device: Generated, on_cpu: Generated) -> tuple[bool, str]:
    """Return (agrees, description).

    Texts may diverge after two nearly equal candidates; up to there log-probabilities must be close.
    """
    same = next(
        (index for index, pair in enumerate(zip(on_device.tokens, on_cpu.tokens)) if pair[0] != pair[1]),
        len(on_cpu.tokens),
    )
    gaps = [abs(one - other) for one, other in zip(on_device.logprobs[: same + 1], on_cpu.logprobs[: same + 1])]
    gap = sum(gaps) / len(gaps)
    agrees = gap <= CLOSE and same > 0
    return agrees, (
        f"{'the same' if agrees else 'DIFFERENT'}: {same} of {len(on_cpu.tokens)} tokens are equal, mean difference of "
        f"log-probabilities {gap:.5f} (up to {CLOSE} is rounding)"
    )


def generate(file: Path, device: Device | None) -> Generated:
    """Decode greedily on a device, or on the CPU if it is None. Raises VkbackendError."""
    from vkbackend.engine.engine import Engine
    from vkbackend.engine.request import Event, Finished, GenerationRequest, Piece, SamplingOptions
    from vkbackend.engine.runner import ModelRunner
    from vkbackend.loading import load
    from vkbackend.tokenizer import Tokenizer

    model = load(file, device)
    runner = ModelRunner(model, context_length=128, max_sequences=1)
    tokenizer = Tokenizer.from_gguf(model.gguf)
    options = SamplingOptions(temperature=0, repeat_penalty=1.0, logit_bias=dict.fromkeys(tokenizer.eos_ids, -1000.0))
    with closing(_Released(runner)), Engine(runner, tokenizer) as engine:
        rates: list[float] = []
        events: list[Event] = []
        for _ in range(ROUNDS):
            runner.forget()
            events = list(
                engine.generate(GenerationRequest(tokenizer.encode(PROMPT), options, NUM_TOKENS, logprobs=True))
            )
            finished = next(event for event in events if isinstance(event, Finished))
            rates.append((finished.tokens - 1) / max(finished.decode_seconds, 1e-9))
    entries = [entry for event in events if isinstance(event, Piece) for entry in event.logprobs]
    text = "".join(event.text for event in events if isinstance(event, Piece))
    return Generated([entry.token_id for entry in entries], [entry.logprob for entry in entries], max(rates), text)


class _Released:
    """Frees a runner's memory on `close`."""

    def __init__(self, runner: ModelRunner):
        self.close = runner.release

"""`bench`: measures a model against the device's limits or other servers, the time of each op, or single kernels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from vkbackend import settings
from vkbackend.errors import NoDevice

from .command_log import command_log
from .main import Failure

if TYPE_CHECKING:
    from vkbackend.bench.compare import Comparison
    from vkbackend.bench.model import Result
    from vkbackend.bench.peers import OwnEngine, Peer
    from vkbackend.device.context import Device


Measured: TypeAlias = "tuple[dict | list, list[str], Callable[[], None]]"  # (JSON document, lines of text, write files)


class Counts(click.ParamType):
    """Comma-separated whole numbers from 1 to `largest`, converted to a tuple."""

    name = "N[,N]"

    def __init__(self, largest: int):
        self.largest = largest

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers of an option's text, such as "16,128"; a tuple stays as it is. Fails with a usage error."""
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(int(part) for part in value.split(","))
        except ValueError:
            found = ()
        if not found or min(found) < 1 or max(found) > self.largest:
            self.fail(f"{value!r} is not a list of whole numbers from 1 to {self.largest}, such as 16,128", param, ctx)
        return found


@click.command()
@click.argument("model", required=False)
@click.option(
    "--prompt",
    "prompts",
    type=Counts(1 << 20),
    default="16,128,512",
    show_default=True,
    help="Prompt lengths in tokens.",
)
@click.option(
    "--batch",
    "batches",
    type=Counts(256),
    default="1,2,4,8",
    show_default=True,
    help="Numbers of sequences decoded together.",
)
@click.option(
    "--tokens",
    type=click.IntRange(1, 1 << 20),
    default=32,
    show_default=True,
    help="Tokens decoded by each sequence.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Number of measurements; medians are shown.",
)
@click.option("--long", is_flag=True, help="Also decode after 64 and 2,048 tokens of context.")
@click.option(
    "--profile", is_flag=True, help="Show the time of each op and kernel variant in a decode and a prefill step."
)
@click.option("--trace", type=click.Path(dir_okay=False), help="With --profile: write a trace for ui.perfetto.dev.")
@click.option(
    "--host-only", is_flag=True, help="Measure the host's share of a decode step, on a driver that does nothing."
)
@click.option(
    "--context",
    "contexts",
    type=Counts(1 << 20),
    help="With --host-only: the tokens that one sequence has in the cache, in place of --batch.",
)
@click.option("--kernels", is_flag=True, help="Measure single kernels on the device; needs no MODEL.")
@click.option(
    "--compare",
    "peers",
    default="",
    metavar="[NAME=]URL[,...]",
    help="Compare with other servers (Ollama or OpenAI API); of several with one name, the faster counts.",
)
@click.option(
    "--own",
    default="",
    metavar="[NAME=]URL",
    help="With --compare: the vkbackend server (default: an engine in this process).",
)
@click.option(
    "--remote-model",
    default="",
    help="With --compare: the model's name on Ollama-compatible servers, if it differs.",
)
@click.option(
    "--clients",
    type=Counts(256),
    default="1",
    show_default=True,
    help="With --compare: numbers of concurrent clients.",
)
@click.option(
    "--peer-seconds",
    type=click.FloatRange(1),
    default=60.0,
    show_default=True,
    help="With --compare: time limit for each server in seconds.",
)
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False),
    help="Plot the rates to a .png or .svg file; needs matplotlib.",
)
@click.option(
    "--device",
    "index",
    type=int,
    default=None,
    help="Device index (see `vkbackend devices`; default: the one models run on).",
)
@click.option("--cpu", is_flag=True, help="Measure the CPU path.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def bench(model: str | None, as_json: bool, **options: Any) -> None:
    """Measure a model's speed.

    Measures prefill and decode of MODEL, a name or the path of a GGUF file.
    """
    wanted = [name for name in ("profile", "host_only", "kernels", "peers") if options[name]]
    if len(wanted) > 1:
        raise Failure(f"use only one of {', '.join(FLAGS[name] for name in wanted)}")
    mode = wanted[0] if wanted else "rates"
    _check(mode, model, options)
    with command_log():
        document, lines, write = MODES[mode](model, options)
    click.echo(json.dumps(document, indent=2) if as_json else "\n".join(lines))
    write()


FLAGS = {"profile": "--profile", "host_only": "--host-only", "kernels": "--kernels", "peers": "--compare"}


def _check(mode: str, model: str | None, options: dict) -> None:
    if options["cpu"] and (mode in ("profile", "host_only", "kernels") or options["index"] is not None):
        raise Failure("--cpu cannot be used with --device, --profile, --host-only or --kernels")
    if options["contexts"] and mode != "host_only":
        raise Failure("--context requires --host-only")
    if options["trace"] and mode != "profile":
        raise Failure("--trace requires --profile")
    if options["picture"] and mode not in ("rates", "peers"):
        raise Failure("--plot cannot be used with --profile, --host-only or --kernels")
    for path in (options["trace"], options["picture"]):
        if path and not Path(path).absolute().parent.is_dir():
            raise Failure(f"cannot write {path}: no folder {Path(path).absolute().parent}")
    if options["picture"]:
        from vkbackend.bench.plot import check

        check(options["picture"])
    if mode == "peers" and options["tokens"] < 2:
        raise Failure("--compare times the tokens after the first: --tokens must be at least 2")
    if mode == "peers" and not options["peers"].strip(", "):
        raise Failure("--compare needs the URL of a server")
    if (options["own"] or options["remote_model"]) and mode != "peers":
        raise Failure("--own and --remote-model require --compare")
    if model is None and mode != "kernels":
        raise Failure("no model given: pass a name (see `vkbackend list`), the path of a GGUF file, or --kernels")


def _rates(model: str, options: dict) -> Measured:
    from vkbackend.bench import bench as measure

    from .bench_text import rates_lines

    sizes = {name: options[name] for name in ("prompts", "batches", "tokens", "rounds", "long")}
    path = gguf_path(model)
    with _device(options) as device:
        result = measure(path, device, **sizes)
    result.model = model
    return result.as_dict(), rates_lines(result), partial(_draw, options, result)


def _profile(model: str, options: dict) -> Measured:
    from vkbackend.bench.profile import profile, write_trace

    from .bench_text import profile_lines

    path = gguf_path(model)
    with _device(options) as device:
        assert device is not None  # _check refuses --cpu
        found = profile(path, device, prompt_tokens=max(options["prompts"]))
        name = device.info.name

    def write() -> None:
        if options["trace"]:
            try:
                write_trace(options["trace"], found, name)
            except OSError as error:
                raise Failure(f"cannot write {options['trace']}: {error.strerror or error}") from None

    return {"model": model, "device": name, "steps": [each.as_dict() for each in found]}, profile_lines(found), write


def _host_only(model: str, options: dict) -> Measured:
    from vkbackend.bench.host import measure_apart

    from .bench_text import host_lines

    path = gguf_path(model)
    sizes = [{"context": each} for each in options["contexts"] or ()]
    sizes = sizes or [{"batch": each} for each in options["batches"]]
    found = [measure_apart(path, tokens=options["tokens"], **each) for each in sizes]
    return [asdict(each) for each in found], host_lines(found), lambda: None


def _kernels(_: str, options: dict) -> Measured:
    """Measure kernels with `vkbackend.bench.kernels.measure(device)`, which returns dataclasses of one type."""
    from vkbackend.bench.kernels import measure

    from .bench_text import dataclass_columns

    with _device(options) as device:
        assert device is not None  # --cpu is refused with --kernels
        found = measure(device)
    return [asdict(each) for each in found], dataclass_columns(found), lambda: None


def _compare(model: str, options: dict) -> Measured:
    from vkbackend.bench.compare import compare
    from vkbackend.bench.peers import Peer

    from .bench_text import comparison_lines

    remote = options["remote_model"] or model
    peers = [_peer(Peer, url, remote) for url in options["peers"].split(",") if url]
    sizes = {
        "prompts": options["prompts"],
        "tokens": options["tokens"],
        "rounds": options["rounds"],
        "clients": options["clients"],
        "peer_seconds": options["peer_seconds"],
    }

    def say(text: str) -> None:
        click.echo(text, err=True)

    if options["own"]:
        own = _peer(Peer, options["own"], remote)
        found = compare(own, peers, **sizes, say=say)
    else:
        with _own_engine(model, options) as own:
            found = compare(own, peers, **sizes, say=say)
    return asdict(found), comparison_lines(found), partial(_draw, options, found)


def _peer(kind: type[Peer], text: str, model: str) -> Peer:
    """Create a peer. `model` applies to Ollama-compatible servers; an OpenAI-compatible server reports its model."""
    name, _, url = text.rpartition("=")
    peer = kind(url if "//" in url else f"http://{url}", name)
    if peer.kind == "ollama":
        peer.model = model
    return peer


class _own_engine:
    """Context manager: a `peers.OwnEngine` for the model on the selected device."""

    def __init__(self, model: str, options: dict):
        self.path = gguf_path(model)
        self.options = options

    def __enter__(self) -> OwnEngine:
        from vkbackend.bench.peers import OwnEngine
        from vkbackend.engine.engine import Engine
        from vkbackend.engine.runner import ModelRunner
        from vkbackend.loading import load
        from vkbackend.tokenizer import Tokenizer

        self.held = _device(self.options)
        model = load(self.path, self.held.__enter__())
        longest = 4 * max(self.options["prompts"]) + self.options["tokens"]  # a word may have several tokens
        runner = ModelRunner(
            model,
            context_length=min(longest + 64, model.config.context_length),
            max_sequences=max(self.options["clients"]),
            tuned_at=1,
        )
        self.engine = Engine(runner, Tokenizer.from_gguf(model.gguf))
        return OwnEngine(self.engine, self.engine.tokenizer)

    def __exit__(self, *error: object):
        self.engine.close()
        self.held.__exit__(*error)


class _device:
    """Context manager: the device selected by the options, or None for the CPU."""

    def __init__(self, options: dict):
        self.index: int | None = options["index"]
        self.cpu: bool = options["cpu"]
        self.device: Device | None = None

    def __enter__(self) -> Device | None:
        from vkbackend.device.selection import open_device

        if not self.cpu:
            try:
                self.device = open_device(self.index)
            except NoDevice as error:
                raise Failure(f"{error}; use --cpu to measure the CPU path") from None
        return self.device

    def __exit__(self, *_: object):
        if self.device is not None:
            self.device.close()


def _draw(options: dict, found: Result | Comparison) -> None:
    if options["picture"]:
        from vkbackend.bench.plot import plot

        plot(options["picture"], found)


def gguf_path(model: str) -> Path:
    """Return the path of a GGUF file, given its path or the name of a stored model."""
    path = settings.expanded(model)
    if path.is_file():
        return path
    if path.suffix.lower() == ".gguf":
        raise Failure(f"{model}: no such file; give the path of a GGUF file or the name of a model (`vkbackend list`)")
    from ..library.store import Store

    stored = Store(settings.models_folder()).get(model)
    if stored.gguf_path is None:
        raise Failure(f"model '{model}' has no GGUF file")
    return stored.gguf_path


MODES = {"rates": _rates, "profile": _profile, "host_only": _host_only, "kernels": _kernels, "peers": _compare}

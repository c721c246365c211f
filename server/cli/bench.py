"""`bench`: how fast a model is here, against what the device can do; against other servers; where a step's time
goes; single kernels.
"""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from vkbackend import settings
from vkbackend.errors import NoDevice

from .main import Failure


class Counts(click.ParamType):
    """Whole numbers from 1 to `largest`, comma-separated -> tuple."""

    name = "N[,N]"

    def __init__(self, largest: int):
        self.largest = largest

    def convert(self, value, param, context):
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(int(part) for part in value.split(","))
        except ValueError:
            found = ()
        if not found or min(found) < 1 or max(found) > self.largest:
            self.fail(
                f"{value!r} is not a list of whole numbers from 1 to {self.largest}, such as 16,128", param, context
            )
        return found


@click.command()
@click.argument("model", required=False)
@click.option(
    "--prompt", "prompts", type=Counts(1 << 20), default="16,128,512", show_default=True, help="Tokens of the prompts."
)
@click.option(
    "--batch",
    "batches",
    type=Counts(256),
    default="1,2,4,8",
    show_default=True,
    help="Sequences that are decoded together.",
)
@click.option(
    "--tokens",
    type=click.IntRange(1, 1 << 20),
    default=32,
    show_default=True,
    help="Tokens that each sequence decodes.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="How often everything is measured; medians are shown.",
)
@click.option("--long", is_flag=True, help="Decode after 64 and after 2,048 tokens of context, too.")
@click.option(
    "--profile", is_flag=True, help="The time of each op and kernel variant in a decode step and in a prefill step."
)
@click.option("--trace", type=click.Path(dir_okay=False), help="With --profile: write a trace for ui.perfetto.dev.")
@click.option("--host-only", is_flag=True, help="The host's share of a decode step, on a driver that does nothing.")
@click.option("--kernels", is_flag=True, help="Measure single kernels on the device; needs no MODEL.")
@click.option(
    "--compare",
    "peers",
    default="",
    metavar="[NAME=]URL[,...]",
    help="Measure other servers side by side, Ollama's or OpenAI's API; of several with one name the better counts.",
)
@click.option(
    "--own",
    default="",
    metavar="[NAME=]URL",
    help="With --compare: the server that is ours; default: an engine in this process.",
)
@click.option(
    "--remote-model",
    default="",
    help="With --compare: the model's name on Ollama-compatible servers, where it differs.",
)
@click.option(
    "--clients",
    type=Counts(256),
    default="1",
    show_default=True,
    help="With --compare: so many that decode at the same time.",
)
@click.option(
    "--peer-seconds",
    type=click.FloatRange(1),
    default=60.0,
    show_default=True,
    help="With --compare: what a slow peer may take.",
)
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False),
    help="Write the rates as a picture (.png, .svg); needs matplotlib.",
)
@click.option(
    "--device",
    "index",
    type=int,
    default=None,
    help="Index of the device (see `vkbackend devices`); default: the one that models run on.",
)
@click.option("--cpu", is_flag=True, help="Measure the CPU path.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON.")
def bench(model, as_json, **options):
    """Measure prefill and decode of MODEL, a name or the path of a GGUF file."""
    wanted = [name for name in ("profile", "host_only", "kernels", "peers") if options[name]]
    if len(wanted) > 1:
        raise Failure(f"these exclude each other: {', '.join(FLAGS[name] for name in wanted)}")
    mode = wanted[0] if wanted else "rates"
    _check(mode, model, options)
    document, lines, write = MODES[mode](model, options)
    click.echo(json.dumps(document, indent=2) if as_json else "\n".join(lines))
    write()


FLAGS = {"profile": "--profile", "host_only": "--host-only", "kernels": "--kernels", "peers": "--compare"}


def _check(mode, model, options) -> None:
    if options["cpu"] and (mode in ("profile", "host_only", "kernels") or options["index"] is not None):
        raise Failure("--cpu excludes --device, --profile, --host-only and --kernels")
    if options["trace"] and mode != "profile":
        raise Failure("--trace writes what --profile finds; give both")
    if options["picture"] and mode not in ("rates", "peers"):
        raise Failure("--plot shows rates; leave out --profile, --host-only and --kernels")
    for path in (options["trace"], options["picture"]):
        if path and not Path(path).absolute().parent.is_dir():
            raise Failure(f"{path} cannot be written: there is no folder {Path(path).absolute().parent}")
    if options["picture"]:
        from vkbackend.bench.plot import check

        check(options["picture"])
    if mode == "peers" and options["tokens"] < 2:
        raise Failure("--compare times the tokens after the first: --tokens must be at least 2")
    if mode == "peers" and not options["peers"].strip(", "):
        raise Failure("--compare needs the URL of a server")
    if (options["own"] or options["remote_model"]) and mode != "peers":
        raise Failure("--own and --remote-model are for --compare")
    if model is None and mode != "kernels":
        raise Failure("which model? Give a name (`vkbackend list`) or the path of a GGUF file, or --kernels")


def _rates(model, options):
    from vkbackend.bench import bench as measure

    from .bench_text import rates_lines

    sizes = {name: options[name] for name in ("prompts", "batches", "tokens", "rounds", "long")}
    path = gguf_path(model)
    with _device(options) as device:
        result = measure(path, device, **sizes)
    result.model = model
    return result.as_dict(), rates_lines(result), partial(_draw, options, result)


def _profile(model, options):
    from vkbackend.bench.profile import profile, write_trace

    from .bench_text import profile_lines

    path = gguf_path(model)
    with _device(options) as device:
        found = profile(path, device, prompt_tokens=max(options["prompts"]))
        name = device.info.name

    def write():
        if options["trace"]:
            try:
                write_trace(options["trace"], found, name)
            except OSError as error:
                raise Failure(f"{options['trace']} cannot be written: {error.strerror or error}") from None

    return {"model": model, "device": name, "steps": [each.as_dict() for each in found]}, profile_lines(found), write


def _host_only(model, options):
    from vkbackend.bench.host import measure_apart

    from .bench_text import host_lines

    path = gguf_path(model)
    found = [measure_apart(path, tokens=options["tokens"], batch=batch) for batch in options["batches"]]
    return [asdict(each) for each in found], host_lines(found), lambda: None


def _kernels(_, options):
    """`vkbackend.bench.kernels.measure(device)`: a list of dataclasses of one type."""
    from vkbackend.bench.kernels import measure

    from .bench_text import dataclass_columns

    with _device(options) as device:
        found = measure(device)
    return [asdict(each) for each in found], dataclass_columns(found), lambda: None


def _compare(model, options):
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

    def say(text):
        click.echo(text, err=True)

    if options["own"]:
        own = _peer(Peer, options["own"], remote)
        found = compare(own, peers, **sizes, say=say)
    else:
        with _own_engine(model, options) as own:
            found = compare(own, peers, **sizes, say=say)
    return asdict(found), comparison_lines(found), partial(_draw, options, found)


def _peer(kind, text, model):
    """`model` is meant for servers that run many; one with OpenAI's API is asked which model it has."""
    name, _, url = text.rpartition("=")
    peer = kind(url if "//" in url else f"http://{url}", name)
    if peer.kind == "ollama":
        peer.model = model
    return peer


class _own_engine:
    """Context manager: an engine for the model on the device that was asked for, as `peers.OwnEngine`."""

    def __init__(self, model, options):
        self.path, self.options = gguf_path(model), options

    def __enter__(self):
        from vkbackend.bench.peers import OwnEngine
        from vkbackend.engine.engine import Engine
        from vkbackend.engine.runner import ModelRunner
        from vkbackend.models.load import load
        from vkbackend.tokenizer import Tokenizer

        self.held = _device(self.options)
        model = load(self.path, self.held.__enter__())
        longest = 4 * max(self.options["prompts"]) + self.options["tokens"]  # words may be of several tokens
        runner = ModelRunner(
            model,
            context_length=min(longest + 64, model.config.context_length),
            max_sequences=max(self.options["clients"]),
            tuned_at=1,
        )
        self.engine = Engine(runner, Tokenizer.from_gguf(model.gguf))
        return OwnEngine(self.engine, self.engine.tokenizer)

    def __exit__(self, *error):
        self.engine.close()
        self.held.__exit__(*error)


class _device:
    """Context manager: the open device that the options ask for, None for the CPU."""

    def __init__(self, options):
        self.index, self.cpu, self.device = options["index"], options["cpu"], None

    def __enter__(self):
        from vkbackend.device.selection import open_device

        if not self.cpu:
            try:
                self.device = open_device(self.index)
            except NoDevice as error:
                raise Failure(f"{error}; measure the CPU path with --cpu") from None
        return self.device

    def __exit__(self, *_):
        if self.device is not None:
            self.device.close()


def _draw(options, found) -> None:
    if options["picture"]:
        from vkbackend.bench.plot import plot

        plot(options["picture"], found)


def gguf_path(model: str) -> Path:
    """Of a file, or of a model in the store."""
    path = settings.expanded(model)
    if path.is_file():
        return path
    if path.suffix.lower() == ".gguf":
        raise Failure(f"{model}: no such file; give the path of a GGUF file or the name of a model (`vkbackend list`)")
    from ..library.store import Store

    stored = Store(settings.models_folder()).get(model)
    if stored.gguf_path is None:
        raise Failure(f"model '{model}' has no GGUF file to measure")
    return stored.gguf_path


MODES = {"rates": _rates, "profile": _profile, "host_only": _host_only, "kernels": _kernels, "peers": _compare}

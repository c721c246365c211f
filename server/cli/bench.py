"""`bench`: tokens per second of a model here, against the memory's speed, and the time of each op; or the speed of single kernels."""

import json
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path

import click

from vkbackend import settings
from vkbackend.errors import NoDevice

from ..formatting import human_bytes
from .main import Failure
from .table import columns


@click.command()
@click.argument("model", required=False)
@click.option("--prompt", "prompt_tokens", type=click.IntRange(1), default=128, show_default=True, help="Tokens of the prompt.")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Tokens to decode.")
@click.option("--device", "index", type=int, default=None, help="Index of the device (see `vkbackend devices`); default: the one that models run on.")
@click.option("--cpu", is_flag=True, help="Measure the CPU path.")
@click.option("--url", default="", help="Measure this model on an Ollama-compatible server beside it.")
@click.option("--remote-model", default="", help="The model's name there, where it differs.")
@click.option("--kernels", is_flag=True, help="Measure single kernels on the device; needs no MODEL.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON.")
def bench(model, prompt_tokens, tokens, index, cpu, url, remote_model, kernels, as_json):
    """Measure prefill and decode of MODEL, a name or the path of a GGUF file."""
    from vkbackend.bench import bench as measure
    from vkbackend.device.selection import open_device
    if cpu and (kernels or index is not None):
        raise Failure("--cpu excludes --device and --kernels")
    if kernels:
        with closing(_open(open_device, index)) as device:
            click.echo(_kernels(device, as_json))
        return
    if model is None:
        raise Failure("which model? Give a name (`vkbackend list`) or the path of a GGUF file, or --kernels")
    path = gguf_path(model)
    if cpu:
        result = measure(path, prompt_tokens=prompt_tokens, tokens=tokens)
    else:
        with closing(_open(open_device, index)) as device:
            result = measure(path, device, prompt_tokens=prompt_tokens, tokens=tokens)
    result.model = model
    other = _measure_url(url, remote_model or model, prompt_tokens, tokens) if url else None
    if as_json:
        click.echo(json.dumps(result.as_dict() | ({"url": asdict(other)} if other else {}), indent=2))
    else:
        click.echo("\n".join(lines(result) + (comparison(result, other) if other else [])))


def _kernels(device, as_json: bool) -> str:
    """`vkbackend.bench.kernels.measure(device)`, a list of dataclasses of one type, as JSON or in a column for each field."""
    from vkbackend.bench.kernels import measure
    found = measure(device)
    if as_json:
        return json.dumps([asdict(each) for each in found], indent=2)
    return "\n".join(dataclass_columns(found))


def dataclass_columns(found: list) -> list[str]:
    """A header of the fields' names, then a line for each of `found`; floats with four digits."""
    if not found:
        return ["nothing was measured"]
    names = [each.name for each in fields(found[0])]
    rows = [[f"{value:.4g}" if isinstance(value, float) else value for value in (getattr(each, name) for name in names)] for each in found]
    return columns(rows, [name.replace("_", " ").upper() for name in names])


def _measure_url(url, model, prompt_tokens, tokens):
    from ..address import parse
    from .bench_url import measure
    from .client import Client
    return measure(Client(parse(url).for_clients.url), model, prompt_tokens, tokens)


def comparison(result, other) -> list[str]:
    """Two lines of rates, and ours as a multiple of theirs."""
    rows = [["here", f"{result.prefill_rate:.1f}", f"{result.decode_rate:.1f}"], [other.url, f"{other.prefill_rate:.1f}", f"{other.decode_rate:.1f}"],
            ["here / there", f"{result.prefill_rate / other.prefill_rate:.2f}", f"{result.decode_rate / other.decode_rate:.2f}"]]
    return ["", *columns(rows, ["TOKENS/S", f"PREFILL {other.prompt_tokens}", f"DECODE {other.decoded_tokens}"])]


def _open(open_device, index):
    try:
        return open_device(index)
    except NoDevice as error:
        raise Failure(f"{error}; measure the CPU path with --cpu") from None


def gguf_path(model: str) -> Path:
    """Of a file, or of a model in the store."""
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if path.suffix.lower() == ".gguf":
        raise Failure(f"{model}: no such file; give the path of a GGUF file or the name of a model (`vkbackend list`)")
    from ..store import Store
    stored = Store(settings.models_folder()).get(model)
    if stored.gguf_path is None:
        raise Failure(f"model '{model}' has no GGUF file to measure")
    return stored.gguf_path


def lines(result) -> list[str]:
    facts = [["model", f"{result.model} ({result.architecture}, {result.weights / 1e6:.1f}M weights per token)"], ["device", result.device],
             ["load", f"{result.load_seconds:.2f} s"],
             [f"prefill {result.prompt_tokens}", f"{result.prefill_rate:.1f} tokens/s"],
             [f"decode {result.decoded_tokens}", f"{result.decode_rate:.1f} tokens/s, {result.nanoseconds_per_weight:.3f} ns per weight"],
             ["moved per token", f"{human_bytes(result.bytes_per_token)}, {result.bytes_per_second / 1e9:.2f} GB/s"]]
    if result.bandwidth:
        facts.append(["bandwidth", f"read {result.bandwidth.read / 1e9:.2f} GB/s, copy {result.bandwidth.copy / 1e9:.2f} GB/s; "
                                   f"decode reaches {result.share_of_bandwidth:.0%} of the better"])
    text = columns(facts)
    if result.ops:
        total = sum(op.seconds for op in result.ops)
        rows = [[op.label, op.dispatches, f"{op.seconds * 1e3:.3f}", f"{op.seconds / total:.1%}", f"{op.num_bytes / 1e6:.2f}", f"{op.bytes_per_second / 1e9:.2f}"]
                for op in result.ops]
        rows.append(["total", sum(op.dispatches for op in result.ops), f"{total * 1e3:.3f}", "100.0%", f"{result.bytes_per_token / 1e6:.2f}",
                     f"{result.bytes_per_token / total / 1e9:.2f}"])
        text += ["", "Time of one decode step by op, on the device's clock:", *columns(rows, ["OP", "DISPATCHES", "MS", "SHARE", "MB", "GB/S"])]
    return text

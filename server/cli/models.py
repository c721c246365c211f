"""`list`, `ps`, `show`, `cp`, `rm`, `stop`: commands about models, each with one or two requests to the server."""

import re
import time
from datetime import UTC, datetime, timedelta

import click

from ..go import durations
from ..go.human import human_bytes, human_bytes_binary, human_number, human_time
from ..wire.limits import MAX_CONTEXT
from .client import Client, ServerError
from .completion import model_names
from .connection import connected
from .main import Failure
from .terminal.cleaning import echo
from .terminal.table import columns

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
SHOWN_LINES = 2  # of a system message or license
LONG_ARRAY = 5  # longer metadata arrays are cut


@click.command("list")
@click.argument("prefix", required=False, default="")
def list_models(prefix: str) -> None:
    """List models."""
    with connected(own_server=True) as client:
        models = client.call("GET", "/api/tags").get("models") or []
    echo("\n".join(model_lines(models, prefix)))


@click.command()
@click.argument("prefix", required=False, default="")
def ps(prefix: str) -> None:
    """List running models."""
    with connected() as client:
        models = client.call("GET", "/api/ps").get("models") or []
    rows = [
        [
            model["name"],
            model["digest"][:12],
            human_bytes(model["size"]),
            processor(model["size"], model.get("size_vram", 0)),
            model.get("context_length", 0),
            until(model["expires_at"]),
        ]
        for model in models
        if model["name"].startswith(prefix)
    ]
    echo("\n".join(columns(rows, ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"])))


@click.command()
@click.argument("model", shell_complete=model_names)
@click.option("--license", is_flag=True, help="Show the license of a model.")
@click.option("--modelfile", is_flag=True, help="Show the Modelfile of a model.")
@click.option("--parameters", is_flag=True, help="Show the parameters of a model.")
@click.option("--system", is_flag=True, help="Show the system message of a model.")
@click.option("--template", is_flag=True, help="Show the template of a model.")
@click.option("-v", "--verbose", is_flag=True, help="Show the metadata and tensors as well.")
@click.option("--memory", is_flag=True, help="Show the memory that a model would take, without loading it.")
@click.option("--num-ctx", type=click.IntRange(1, MAX_CONTEXT), help="The context length that --memory counts with.")
def show(model: str, verbose: bool, memory: bool, num_ctx: int | None, **parts: bool) -> None:
    """Show information for a model."""
    wanted = [name for name in sorted(parts) if parts[name]]
    if len(wanted) + memory > 1:
        views = ", ".join(f"--{name}" for name in (*sorted(parts), "memory"))
        raise Failure(f"only one of {views} can be shown at a time")
    if memory and verbose:
        raise Failure("--verbose cannot be used with --memory")
    if num_ctx is not None and not memory:
        raise Failure("--num-ctx requires --memory")
    if memory:
        with connected(own_server=True) as client:
            options = {} if num_ctx is None else {"num_ctx": num_ctx}
            plan = client.call("POST", "/api/memory", {"model": model, "options": options})
        echo("\n".join(memory_lines(plan)))
        return
    with connected(own_server=True) as client:
        answer = client.call("POST", "/api/show", {"model": model, "verbose": verbose})
    echo(answer.get(wanted[0]) or "" if wanted else "\n".join(describe(answer, verbose)))


@click.command("cp")
@click.argument("source", shell_complete=model_names)
@click.argument("destination")
def copy(source: str, destination: str) -> None:
    """Copy a model."""
    with connected(own_server=True) as client:
        client.call("POST", "/api/copy", {"source": source, "destination": destination})
    echo(f"copied '{source}' to '{destination}'")


@click.command("rm")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", shell_complete=model_names)
def remove(models: tuple[str, ...]) -> None:
    """Remove models."""
    with connected(own_server=True) as client:
        for model in models:
            try:
                unload(client, model)
            except ServerError as error:
                if error.status != 404:
                    echo(f"Warning: unable to stop model '{model}'", err=True)
            client.call("DELETE", "/api/delete", {"model": model})
            echo(f"deleted '{model}'")


@click.command()
@click.argument("model", shell_complete=model_names)
def stop(model: str) -> None:
    """Stop a running model."""
    with connected() as client:
        try:
            unload(client, model)
        except ServerError as error:
            if error.status == 404:
                raise Failure(f'couldn\'t find model "{model}" to stop') from None
            raise


def unload(client: Client, model: str) -> None:
    """Unload a model as soon as its last request ends."""
    client.call("POST", "/api/generate", {"model": model, "keep_alive": 0, "stream": False})


# --- cells


def model_lines(models: list[dict], prefix: str = "") -> list[str]:
    """Format the models of /api/tags as the table of `list`."""
    rows = [
        [model["name"], model["digest"][:12], human_bytes(model["size"]), human_time(age(model["modified_at"]))]
        for model in models
        if model["name"].lower().startswith(prefix.lower())
    ]
    return columns(rows, ["NAME", "ID", "SIZE", "MODIFIED"])


def age(text: str) -> int | None:
    """Convert an RFC 3339 time to nanoseconds since then; negative if it is in the future.

    Returns None for Go's zero time, which means never.
    """
    match = _TIME.fullmatch(text)
    if match is None or text.startswith("0001-"):
        return None
    whole, fraction, zone = match.groups()
    moment = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone))
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return time.time_ns() - seconds * durations.SECOND - int((fraction or "0").ljust(9, "0")[:9])


def until(expires_at: str) -> str:
    """Format the time at which a model is unloaded."""
    since = age(expires_at)
    return "Stopping..." if since is not None and since > 0 else human_time(since)


def processor(size: int, size_vram: int) -> str:
    """Format where a model runs: `100% GPU`, `100% CPU`, `25%/75% CPU/GPU`."""
    if size_vram == 0:
        return "100% CPU"
    if size_vram == size:
        return "100% GPU"
    if size_vram > size or size == 0:
        return "Unknown"
    share = int((size - size_vram) / size * 100 + 0.5)
    return f"{share}%/{100 - share}% CPU/GPU"


def describe(answer: dict, verbose: bool = False) -> list[str]:
    """Format the answer of /api/show in sections."""
    details, info = answer.get("details") or {}, answer.get("model_info") or {}
    lines = _section(
        "Model",
        _facts(info, details.get("family", ""), ("context_length", "embedding_length"))
        + [["quantization", details.get("quantization_level", "")]],
    )
    lines += _section("Capabilities", [[name] for name in answer.get("capabilities") or []])
    projector = answer.get("projector_info")
    if projector:
        lines += _section("Projector", _facts(projector, "", ("vision.embedding_length", "vision.projection_dim")))
    lines += _section("Parameters", [line.split(maxsplit=1) for line in (answer.get("parameters") or "").splitlines()])
    if verbose:
        lines += _section("Metadata", [[key, _short(value)] for key, value in sorted(info.items())])
        lines += _section(
            "Tensors",
            [
                [tensor["name"], tensor["type"], str(tensor["shape"]).replace(",", "")]
                for tensor in answer.get("tensors") or []
            ],
        )
    lines += _section("System", _head(answer.get("system") or ""))
    return lines + _section("License", _head(answer.get("license") or ""))


def memory_lines(plan: dict) -> list[str]:
    """Format the answer of /api/memory: a table of places, and whether the model fits."""
    sizes = ("weights", "mapped", "cache", "scratch", "loading", "total", "free")
    rows = [
        [
            place["name"],
            place["layers"],
            *(human_bytes_binary(place[size]) for size in sizes),
            "fits" if place["fits"] else "too large",
        ]
        for place in plan["places"]
    ]
    header = ["PLACE", "LAYERS", *(size.upper() for size in sizes), "VERDICT"]
    lines = [*columns(rows, header), ""]
    if plan["context_length"] < plan["num_ctx"]:
        lines.append(
            f"The model was trained with a context of {plan['context_length']} tokens, not {plan['num_ctx']}; "
            f"{plan['context_length']} are counted."
        )
    size = f"{plan['cache_tokens']} tokens ({plan['cache_type']})"
    if plan["fits"]:
        return [*lines, f"The cache has room for {size}.", "The model fits."]
    return [*lines, f"A cache for {size} is counted.", f"The model does not fit: {plan['problem']}"]


def _facts(info: dict, family: str, keys: tuple[str, ...]) -> list[list[str]]:
    architecture = info.get("general.architecture") or family
    facts = [["architecture", architecture]]
    if info.get("general.parameter_count"):
        facts.append(["parameters", human_number(int(info["general.parameter_count"]))])
    names = {"vision.embedding_length": "embedding length", "vision.projection_dim": "dimensions"}
    return facts + [
        [names.get(key, key.replace("_", " ")), int(info[f"{architecture}.{key}"])]
        for key in keys
        if info.get(f"{architecture}.{key}")
    ]


def _section(title: str, rows: list[list]) -> list[str]:
    return [f"  {title}", *columns(rows, indent="    "), ""] if rows else []


def _head(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [[line] for line in lines[:SHOWN_LINES]] + ([["..."]] if len(lines) > SHOWN_LINES else [])


def _short(value: object) -> str:
    if isinstance(value, list) and len(value) > LONG_ARRAY:
        return f"[{', '.join(str(item) for item in value[:LONG_ARRAY])}, ...+{len(value) - LONG_ARRAY} more]"
    return "" if value is None else str(value)

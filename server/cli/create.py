"""`create`: creates a model from a Modelfile, a folder with a Modelfile or weights, or a GGUF file.

Uses the server if one runs, and otherwise writes to the store of OLLAMA_MODELS. Creating the same model again is
instant: digests of files are cached, and an existing model is left as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vkbackend import settings

from ..http.address import from_environment
from .client import Client, NoServer, ServerError
from .connection import running_server
from .digests import file_digest
from .main import Failure
from .terminal.cleaning import clean
from .terminal.progress import Progress

if TYPE_CHECKING:
    from ..wire.native import CreateRequest


@click.command()
@click.argument("model")
@click.option("-f", "--file", "modelfile", default="", help='Name of the Modelfile (default "Modelfile").')
@click.option("--gguf", default="", help="Create the model from this GGUF file, without a Modelfile.")
@click.option("-q", "--quantize", default="", help="Quantize the model to this level (e.g. q4_K_M).")
def create(model: str, modelfile: str, gguf: str, quantize: str) -> None:
    """Create a model."""
    client = _server()
    if gguf:
        if modelfile:
            raise Failure("use only one of --gguf and --file: a Modelfile names its file after FROM")
        create_from_gguf(client, model, settings.expanded(gguf), quantize)
        return
    request, files = _from_modelfile(modelfile)
    request.model, request.quantize = model, quantize
    _send(client, request, files)


def _server() -> Client | None:
    """Return the running server, or None to write to the store directly.

    Raises NoServer if OLLAMA_HOST names another machine that does not answer.
    """
    client, address = running_server(), from_environment()
    if client is None and not address.is_local:
        raise NoServer(
            f"could not connect to a server at {address.url}; set OLLAMA_HOST to a running server, "
            "or unset it to create the model on this machine"
        )
    return client


def create_from_gguf(client: Client | None, name: str, path: Path, quantize: str = "") -> None:
    """Create the model `name` from a GGUF file unless it exists. client None: write to the store on this machine."""
    if not path.is_file():
        raise Failure(f"{path}: no such file; give the path of a GGUF file")
    digest = file_digest(path, _reading(path))
    if not quantize and _stands_for(client, name, digest):
        click.echo(f"{name} already exists with the same file")
        return
    from ..wire.native import CreateRequest

    _send(client, CreateRequest(model=name, quantize=quantize, files={path.name: digest}), {digest: path})


def _stands_for(client: Client | None, name: str, digest: str) -> bool:
    """Whether the model exists with this GGUF file."""
    if client is None:
        from ..library.store import InvalidName, ModelNotFound, Store, StoreError

        try:
            stored = Store(settings.models_folder()).get(name)
            layer, path = stored.model_layer, stored.gguf_path
            return layer is not None and layer.digest == digest and path is not None and path.is_file()
        except (InvalidName, ModelNotFound, StoreError):
            return False
    try:
        lines = client.call("POST", "/api/show", {"model": name}).get("modelfile", "").splitlines()
    except ServerError:
        return False
    blob = digest.replace(":", "-")
    return any(line.startswith("FROM ") and line.endswith(blob) for line in lines)


def _from_modelfile(text: str) -> tuple[CreateRequest, dict[str, Path]]:
    """Read a Modelfile (`-`: stdin). Returns (request, files). Raises Failure if the file does not exist."""
    from ..library import modelfile
    from .modelfile_request import create_request, has_weights

    path = settings.expanded(text or "Modelfile")
    if text == "-":
        contents, folder = sys.stdin.buffer.read(), Path.cwd()
    elif path.is_file() or path.is_fifo():  # such as a shell's <(...)
        contents, folder = path.read_bytes(), path.resolve().parent
    elif not text and has_weights(Path.cwd()):  # a published folder of weights
        contents, folder = b"FROM .", Path.cwd()
    else:
        raise Failure(
            f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give a Modelfile with -f FILE, or a GGUF "
            f"file with --gguf FILE"
        )
    click.echo("gathering model components", err=True)
    try:
        commands = modelfile.parse(contents)
    except modelfile.ModelfileError as error:
        raise Failure(str(error)) from None
    request, files = create_request(
        commands, folder, lambda file: file_digest(file, _reading(file)), lambda warning: click.echo(warning, err=True)
    )
    if request.from_.startswith(("./", "../", "/", "~")) or request.from_.endswith(".gguf"):
        raise Failure(f"FROM {request.from_}: no such file; paths are relative to the Modelfile")
    return request, files


def _send(client: Client | None, request: CreateRequest, files: dict[str, Path]) -> None:
    """Upload the blobs, then send the request. Shows a line for each step and a bar for long ones."""
    if client is None:
        _write_to_store(request, files)
        return
    import json

    from ..go import encode

    copied = set()
    with Progress() as progress:
        for digest, path in files.items():
            if not client.has_blob(digest):
                client.upload_blob(digest, path, _copying(progress, digest, path))
                copied.add(digest)
        for piece in client.stream("/api/create", json.loads(encode.dumps(request))):
            progress(piece | {"status": _step(piece.get("status", ""), copied)})


def _step(status: str, copied: set[str]) -> str:
    """The status of a creation step. Files in `copied` are new layers, although their blobs now exist."""
    words, _, digest = status.rpartition(" ")
    return f"creating new layer {digest}" if words == "using existing layer" and digest in copied else status


def _write_to_store(request: CreateRequest, files: dict[str, Path]) -> None:
    from ..errors import ApiError
    from ..go import encode
    from ..go.binding import bind
    from ..library import create as creation
    from ..library import registry
    from ..library.store import Store
    from ..wire.native import CreateRequest

    store, copied = Store(settings.models_folder()), set()
    store.rename_old_blobs()
    request = bind(CreateRequest, encode.dumps(request).encode())  # parsed as the server would parse it
    with Progress() as progress:
        for digest, path in files.items():
            if not store.blob_path(digest).is_file():
                copied.add(digest)
                with open(path, "rb") as file, store.upload() as upload:
                    tell = _copying(progress, digest, path)
                    while piece := file.read(1 << 20):
                        upload.write(piece)
                        tell(upload.size)
                    upload.finish(digest)

        def report(status: str, digest: str = "", total: int = 0, completed: int = 0) -> None:
            progress({"status": _step(status, copied), "digest": digest, "total": total, "completed": completed})

        try:
            creation.create(
                store, request, creation.checked_name(request), report, lambda base: registry.pull(store, base, report)
            )
        except ApiError as error:
            raise Failure(error.message) from None


def _copying(progress: Progress, digest: str, path: Path) -> Callable[[int], None]:
    """Return a callback for the number of bytes of a file that have been copied to the store."""
    total = path.stat().st_size
    return lambda done: progress(
        {"status": f"copying {path.name}", "digest": digest, "total": total, "completed": done}
    )


def _reading(path: Path) -> Callable[[int], None]:
    """Return a callback that shows the progress of computing a file's digest, on a terminal only."""
    if not sys.stderr.isatty():
        return lambda done: None
    total = max(path.stat().st_size, 1)
    return lambda done: click.echo(f"\rreading {clean(path.name)} {done * 100 // total}%", err=True, nl=done >= total)

"""Routes that list, show and change models: /, /api/version, tags, show, ps, copy, delete."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from aiohttp import web

from .. import pools
from ..errors import ApiError
from ..go import encode
from ..go.text import quote
from ..http.responses import empty, json_answer, read, text_answer
from ..library import describe
from ..library.model import InvalidName, ModelNotFound, StoredModel, StoreError
from ..library.names import ModelName, parse_name
from ..library.staging import lock_deadline
from ..library.store import Store
from ..version import OLLAMA_VERSION
from ..wire.content_types import JSON
from ..wire.limits import MAX_CONTEXT
from ..wire.native import CopyRequest, DeleteRequest, MemoryRequest, ProcessResponse, ShowRequest
from ..wire.options import Options
from .app_state import LOADED_MODELS, STORE

P = ParamSpec("P")
T = TypeVar("T")

INVALID_PATH = "invalid model path"


async def root(request: web.Request) -> web.Response:
    """GET /, by which clients check that a server is running."""
    return web.Response(body=b"Ollama is running", headers={"Content-Type": "text/plain; charset=utf-8"})


async def version(request: web.Request) -> web.Response:
    """GET /api/version."""
    return json_answer({"version": OLLAMA_VERSION})


async def tags(request: web.Request) -> web.Response:
    """GET /api/tags: the models of the store."""
    return json_answer(await pools.run("store", describe.list_models, request.app[STORE]))


async def show(request: web.Request) -> web.Response:
    """POST /api/show: details of a model."""
    ask = await read(request, ShowRequest)
    text = ask.model or ask.name
    if not text:
        raise ApiError(400, "model is required")
    name = parse_name(text)
    if not name.is_valid:
        raise ApiError(500, INVALID_PATH)

    def answer() -> str:
        return encode.dumps(describe.show(request.app[STORE].get(name), ask.system, ask.options, ask.verbose))

    try:
        body = await pools.run("store", answer)
    except (ModelNotFound, FileNotFoundError):
        raise ApiError(404, f"model '{text}' not found") from None
    return text_answer(200, body, JSON)


async def memory(request: web.Request) -> web.Response:
    """POST /api/memory: what a model would take in each place if it were loaded now. Loads nothing."""
    ask = await read(request, MemoryRequest)
    text = ask.model or ask.name
    if not text:
        raise ApiError(400, "model is required")
    num_ctx = (ask.options or {}).get("num_ctx")
    if isinstance(num_ctx, (int, float)) and not 1 <= num_ctx <= MAX_CONTEXT:
        raise ApiError(400, f"num_ctx must be from 1 to {MAX_CONTEXT}")

    def stored_with_options() -> tuple[StoredModel, Options]:
        stored = request.app[STORE].get(parse_name(text))
        return stored, Options.defaults().update(stored.parameters).update(ask.options)

    try:
        stored, options = await pools.run("store", stored_with_options)
    except (ModelNotFound, InvalidName):
        raise ApiError(404, f"model '{text}' not found") from None
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    return json_answer(await request.app[LOADED_MODELS].plan(stored, options))


async def running(request: web.Request) -> web.Response:
    """GET /api/ps: the models in memory."""
    return json_answer(ProcessResponse(request.app[LOADED_MODELS].running()))


async def copy(request: web.Request) -> web.Response:
    """POST /api/copy."""
    ask = await read(request, CopyRequest)
    source = parse_name(ask.source)
    destination = parse_name(ask.destination)
    for role, name, text in (("source", source, ask.source), ("destination", destination, ask.destination)):
        if not name.is_valid:
            raise ApiError(400, f"{role} {quote(text)} is invalid")
    try:
        await _changed(request.app[STORE], request.app[STORE].copy, source, destination)
    except ModelNotFound:
        raise ApiError(404, f"model {quote(ask.source)} not found") from None
    return empty(200)


async def delete(request: web.Request) -> web.Response:
    """DELETE /api/delete: from the store, and from memory once it is unused."""
    ask = await read(request, DeleteRequest)
    text = ask.model or ask.name
    name = parse_name(text)
    if not name.is_valid:
        raise ApiError(400, f"name {quote(text)} is invalid")
    try:
        gone = await _changed(request.app[STORE], _delete, request.app[STORE], name)
    except ModelNotFound:
        raise ApiError(404, f"model '{text}' not found") from None
    loaded_models = request.app[LOADED_MODELS]
    if gone is not None and loaded_models.holds(gone):
        await loaded_models.remove(gone)  # no request can name it any more
    return empty(200)


async def _changed(store: Store, change: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call `change` in a thread while holding the store's lock. Waiting for a thread counts as waiting for the lock."""
    deadline = lock_deadline()

    def run() -> T:
        with store.lock.by(deadline):
            return change(*arguments, **named)

    return await pools.run_to_end("changes", run)


def _delete(store: Store, name: ModelName) -> StoredModel | None:
    """Delete a model. Returns it, or None if another one has the same weights or it was damaged."""
    try:
        stored = store.get(name)
    except StoreError:  # damaged models can be deleted, too
        stored = None
    store.delete(name)
    return None if stored is None or any(other.gguf_path == stored.gguf_path for other in store.list()) else stored

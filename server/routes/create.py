"""Routes that add models: /api/create, /api/blobs/:digest."""

from pathlib import Path

from aiohttp import web

from .. import pools
from ..errors import ApiError
from ..go.text import quote
from ..http.responses import Report, empty, progress, read
from ..http.streams import has_left
from ..library import create as creation
from ..library import registry
from ..library.model import DigestMismatch, InvalidDigest
from ..wire.native import CreateRequest
from .app_state import STORE

UPLOAD_PIECE_BYTES = 1 << 20


async def create(request: web.Request) -> web.StreamResponse:
    """POST /api/create: a model from another one, from files, or from a registry."""
    ask = await read(request, CreateRequest)
    name = await pools.run("json", creation.checked_name, ask)  # there may be many files
    store = request.app[STORE]

    def work(report: Report) -> None:
        def pull(base: str) -> None:
            registry.pull(store, base, report, is_cancelled=lambda: report.cancelled.is_set() or has_left(request))

        creation.create(store, ask, name, report, pull, report.cancelled.is_set)

    return await progress(request, work, stream=ask.stream is not False)


def _blob_path(request: web.Request) -> Path:
    """The path of the blob that the request names. Raises ApiError 400 for a malformed digest."""
    try:
        return request.app[STORE].blob_path(request.match_info["digest"])
    except InvalidDigest as error:
        raise ApiError(400, str(error)) from None


async def has_blob(request: web.Request) -> web.Response:
    """HEAD /api/blobs/:digest."""
    if not _blob_path(request).is_file():
        raise ApiError(404, f"blob {quote(request.match_info['digest'])} not found")
    return empty(200)


async def upload_blob(request: web.Request) -> web.Response:
    """Stream the body to disk. It becomes a blob once all of it has arrived and its digest is the announced one."""
    if _blob_path(request).is_file():
        return empty(200)
    with await pools.run_to_end("store", request.app[STORE].upload) as upload:
        async for piece in request.content.iter_chunked(UPLOAD_PIECE_BYTES):
            await pools.run_to_end("store", upload.write, piece)
        try:
            await pools.run_to_end("store", upload.finish, request.match_info["digest"])
        except DigestMismatch as error:
            raise ApiError(400, str(error)) from None
    return empty(201)

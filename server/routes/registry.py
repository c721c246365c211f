"""Routes that exchange models with a registry: /api/pull and /api/push."""

from aiohttp import web

from ..errors import ApiError
from ..http.responses import progress, read
from ..http.streams import has_left
from ..library import registry
from ..library.names import parse
from ..wire.native import PullRequest, PushRequest
from .context import STORE


async def pull(request: web.Request) -> web.StreamResponse:
    ask = await read(request, PullRequest)
    name = ask.model or ask.name
    if not parse(name).is_valid:
        raise ApiError(400, "invalid model name")
    return await _exchange(request, registry.pull, ask, name)


async def push(request: web.Request) -> web.StreamResponse:
    ask = await read(request, PushRequest)
    name = ask.model or ask.name
    if not name:
        raise ApiError(400, "model is required")
    return await _exchange(request, registry.push, ask, name)


async def _exchange(request: web.Request, work, ask: PullRequest, name: str) -> web.StreamResponse:
    """A client that leaves ends it, also one that waits for a single answer."""
    store, credentials = request.app[STORE], registry.Credentials(ask.username, ask.password)
    return await progress(
        request,
        lambda report: work(
            store, name, report, ask.insecure, lambda: report.cancelled.is_set() or has_left(request), credentials
        ),
        stream=ask.stream is not False,
    )

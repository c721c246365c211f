"""Routes that exchange models with a registry: /api/pull and /api/push."""

from collections.abc import Callable

from aiohttp import web

from ..errors import ApiError
from ..http.responses import Report, progress, read
from ..http.streams import has_left
from ..library import registry
from ..library.names import parse_name
from ..wire.native import PullRequest, PushRequest
from .app_state import STORE


async def pull(request: web.Request) -> web.StreamResponse:
    """POST /api/pull."""
    ask = await read(request, PullRequest)
    name = ask.model or ask.name
    if not parse_name(name).is_valid:
        raise ApiError(400, "invalid model name")
    return await _exchange(request, registry.pull, ask, name)


async def push(request: web.Request) -> web.StreamResponse:
    """POST /api/push."""
    ask = await read(request, PushRequest)
    name = ask.model or ask.name
    if not name:
        raise ApiError(400, "model is required")
    return await _exchange(request, registry.push, ask, name)


async def _exchange(
    request: web.Request, exchange: Callable[..., None], ask: PullRequest, name: str
) -> web.StreamResponse:
    """Run `registry.pull` or `registry.push`. It ends when the client leaves, even without a stream."""
    store = request.app[STORE]
    credentials = registry.Credentials(ask.username, ask.password)

    def work(report: Report) -> None:
        def is_cancelled() -> bool:
            return report.cancelled.is_set() or has_left(request)

        exchange(store, name, report, ask.insecure, is_cancelled, credentials)

    return await progress(request, work, stream=ask.stream is not False)

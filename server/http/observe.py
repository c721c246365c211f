"""The outermost middleware: gives each request its id, counts it, and refuses or ends it when the server shuts down."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar

from aiohttp import web

from .. import garbage, metrics, pools
from ..errors import ApiError
from . import request_id
from .keys import ERROR_ANSWER, RUNNING
from .running import SHUTTING_DOWN
from .streams import has_left

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LAG_SECONDS = 0.05  # between two measurements of the event loop's lag
_has_begun: ContextVar[bool] = ContextVar("answer_has_begun")  # for the request of the current task


@web.middleware
async def observed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer one request. Context variables stay set for the rest of the task: the answer may be sent afterwards."""
    started = time.monotonic()
    running = request.app[RUNNING]
    request_id.current.set(request_id.of_header(request.headers.get(request_id.HEADER, "")))
    pools.client_left.set(lambda: has_left(request))
    _has_begun.set(False)
    status = 499  # the client left before there was an answer
    try:
        with running.during(), metrics.running.track_inprogress():
            response = await _ended(request, handler)
            status = response.status
            return response
    finally:
        garbage.end()
        resource = request.match_info.route.resource
        metrics.count_request(
            request.method,
            resource.canonical if resource is not None else "unknown",
            status,
            time.monotonic() - started,
        )


async def _ended(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The handler's answer, or a refusal if the server shuts down before it begins."""
    running = request.app[RUNNING]
    if running.is_ending:
        return _refusal(request)
    try:
        return await handler(request)
    except asyncio.CancelledError:
        if not running.is_over or _has_begun.get():
            raise
        return _refusal(request)


def _refusal(request: web.Request) -> web.Response:
    """A 503 in the shape that clients of the route know."""
    error = ApiError(503, SHUTTING_DOWN)
    answer = request.app[ERROR_ANSWER](request.path, error)
    answer.force_close()
    return answer


async def mark(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler of `on_response_prepare`: notes that the answer begins and adds the request's id."""
    _has_begun.set(True)
    response.headers[request_id.HEADER] = request_id.current.get()


async def watch_loop(app: web.Application) -> AsyncIterator[None]:
    """Cleanup context that measures the event loop's lag while requests run."""

    async def watch() -> None:
        while True:
            await app[RUNNING].any.wait()
            started = time.monotonic()
            await asyncio.sleep(LAG_SECONDS)
            metrics.lag.observe(max(time.monotonic() - started - LAG_SECONDS, 0))

    task = asyncio.create_task(watch())
    yield
    task.cancel()


async def collect_garbage(app: web.Application) -> AsyncIterator[None]:
    """Cleanup context that collects garbage while there are no large requests."""
    task = asyncio.create_task(garbage.collect_when_quiet())
    yield
    task.cancel()

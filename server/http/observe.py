"""The outermost middleware: each request gets its id, is counted, and is refused or cut off where the server ends."""

import asyncio
import time
from contextvars import ContextVar

from aiohttp import web

from .. import garbage, pools
from ..errors import ApiError
from . import metrics, request_id
from .keys import ERROR_ANSWER, RUNNING
from .running import SHUTTING_DOWN
from .streams import has_left

LAG_SECONDS = 0.05  # between two looks at how late the event loop is
_has_begun: ContextVar[bool] = ContextVar("answer_has_begun")  # of the request that the current task answers


@web.middleware
async def observed(request: web.Request, handler) -> web.StreamResponse:
    started, running = time.monotonic(), request.app[RUNNING]
    # For the rest of this task, which answers one request: the answer may be sent after this function.
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


async def _ended(request, handler) -> web.StreamResponse:
    running = request.app[RUNNING]
    if running.is_ending:
        return _refusal(request)
    try:
        return await handler(request)
    except asyncio.CancelledError:
        if not running.is_over or _has_begun.get():
            raise
        return _refusal(request)


def _refusal(request) -> web.Response:
    """In the shape that the route's clients know."""
    error = ApiError(503, SHUTTING_DOWN)
    answer = request.app[ERROR_ANSWER](request, error)
    answer.force_close()
    return answer


async def mark(request: web.Request, response: web.StreamResponse):
    """For `on_response_prepare`: the answer begins now."""
    _has_begun.set(True)
    response.headers[request_id.HEADER] = request_id.current.get()


async def watch_loop(app: web.Application):
    """A cleanup context: how late the loop is, while there are requests to be late for."""

    async def watch():
        while True:
            await app[RUNNING].any.wait()
            started = time.monotonic()
            await asyncio.sleep(LAG_SECONDS)
            metrics.lag.observe(max(time.monotonic() - started - LAG_SECONDS, 0))

    task = asyncio.create_task(watch())
    yield
    task.cancel()


async def collect_garbage(app: web.Application):
    """A cleanup context: garbage is collected while there are no large requests."""
    task = asyncio.create_task(garbage.collect_when_quiet())
    yield
    task.cancel()

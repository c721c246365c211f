"""Bodies of requests bound to dataclasses, and answers as gin writes them: JSON, empty, plain text, progress."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from vkbackend.errors import VkbackendError

from .. import garbage, pools
from ..errors import ApiError
from ..go import encode
from ..go.binding import bind
from ..go.decode import JSONSyntaxError
from ..go.kinds import BindError
from ..library.model import StoreBusy
from ..wire import limits
from ..wire.content_types import JSON, PLAIN_JSON
from ..wire.native import ProgressResponse
from . import bodies
from .line_stream import LineStream
from .running import SHUTTING_DOWN, was_cut_off

log = logging.getLogger(__name__)
R = TypeVar("R")

MAX_TASKS = 64  # creations, pulls and pushes at the same time
MOST_LINES = 64  # lines of a task that wait for a slow client
LARGE_BODY = 32 << 10  # bytes; a smaller body is read in at most 15 ms
_num_tasks = 0  # running ones; used by the event loop alone


class EmptyResponse(web.Response):
    """An answer without a body and without a Content-Type."""


def empty(status: int, headers: dict | None = None) -> EmptyResponse:
    """An answer without a body."""
    return EmptyResponse(status=status, headers=headers)


def plain(status: int, text: str, headers: dict | None = None) -> web.Response:
    """An answer of plain text."""
    return web.Response(status=status, body=text.encode(), headers={"Content-Type": "text/plain"} | (headers or {}))


def json_answer(value: object, status: int = 200, content_type: str = JSON) -> web.Response:
    """An answer with a dataclass or another value as JSON."""
    return web.Response(status=status, body=encode.dumps(value).encode(), headers={"Content-Type": content_type})


def text_answer(status: int, text: str, content_type: str) -> web.Response:
    """An answer whose text is ready."""
    return web.Response(status=status, body=text.encode(), headers={"Content-Type": content_type})


def error_answer(status: int, message: str, content_type: str = JSON) -> web.Response:
    """An error in the shape of the native API."""
    return json_answer({"error": message}, status, content_type)


async def bound(request: web.Request, cls: type[R], bind: Callable[..., R] = bind) -> R:
    """The request's body as a `cls`, checked against the limits. Raises what `bind` does, and ApiError 400, 413 and
    503.
    """
    async with bodies.read(request) as body:
        pools.body_bytes.set(len(body))
        made = garbage.begin() if len(body) >= LARGE_BODY else None

        def read() -> R:
            ask = bind(cls, body, made)
            limits.check(ask)
            return ask

        return await off_loop(read)


async def off_loop(function: Callable[..., R], *arguments: object) -> R:
    """Call `function(*arguments)`, in a thread if the current request is large: it must not hold up other clients."""
    if pools.body_bytes.get() < LARGE_BODY:
        return function(*arguments)
    return await pools.run("json", function, *arguments)


async def read(request: web.Request, cls: type[R]) -> R:
    """The request's body as a `cls` of `wire/native.py`. Raises ApiError 400 in Ollama's words, and 413."""
    try:
        return await bound(request, cls)
    except JSONSyntaxError as error:
        raise ApiError(400, "missing request body" if error.is_empty_body else str(error)) from None
    except BindError as error:
        raise ApiError(400, str(error)) from None


class Report:
    """How a long task reports progress: `report(status)`, or with `digest`, `total` and `completed` in bytes.
    `cancelled` is set once the client has left; resumable tasks stop then, others run to completion.
    """

    def __init__(self, send: Callable[[ProgressResponse], object]):
        self.cancelled = threading.Event()
        self._send = send

    def __call__(self, status: str, digest: str = "", total: int = 0, completed: int = 0) -> None:
        self._send(ProgressResponse(status, digest, total, completed))


class _Lines:
    """Reports of a task that are not sent yet. If the client does not read, only the latest report of each kind is
    kept.
    """

    def __init__(self):
        self._waiting: deque = deque()
        self._any = asyncio.Event()

    def put(self, event: ProgressResponse | Exception | None) -> None:
        if len(self._waiting) >= MOST_LINES and isinstance(event, ProgressResponse):
            for at in reversed(range(len(self._waiting))):
                if (self._waiting[at].status, self._waiting[at].digest) == (event.status, event.digest):
                    del self._waiting[at]
                    break
        self._waiting.append(event)
        self._any.set()

    async def get(self) -> ProgressResponse | Exception | None:
        while not self._waiting:
            self._any.clear()
            await self._any.wait()
        return self._waiting.popleft()


async def progress(request: web.Request, work: Callable[[Report], object], stream: bool) -> web.StreamResponse:
    """Run `work` in a thread. Each report is a line of NDJSON; without `stream`, the last one is the answer.

    An error before the first line sets the status; a later one is the last line.
    """
    global _num_tasks
    loop = asyncio.get_running_loop()
    events = _Lines()
    report = Report(lambda line: loop.call_soon_threadsafe(events.put, line))
    if _num_tasks >= MAX_TASKS:
        raise ApiError(503, f"the server is busy with {MAX_TASKS} tasks; send the request again later")

    def run() -> None:
        end = None
        try:
            work(report)
        except Exception as error:
            end = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(ended, end)

    def ended(end: Exception | None) -> None:
        global _num_tasks
        _num_tasks -= 1
        events.put(end)

    # A thread of its own: a pull may take hours.
    _num_tasks += 1
    threading.Thread(target=run, name="task").start()
    try:
        return await (_stream if stream else _last)(request, events)
    finally:
        report.cancelled.set()  # no effect on a task that has ended


def _status_of(error: Exception) -> tuple[int, str]:
    """Status and text for a task that failed: 500 where a route has a status of its own, as in Ollama."""
    if isinstance(error, ApiError):
        return error.status, error.message
    if isinstance(error, StoreBusy):
        return 503, str(error)
    if isinstance(error, (VkbackendError, OSError)):
        return 500, str(error)
    log.error("a task failed", exc_info=error)
    return 500, f"{type(error).__name__}: {error}"


async def _last(request: web.Request, events: _Lines) -> web.Response:
    latest = ProgressResponse()
    while isinstance(event := await events.get(), ProgressResponse):
        latest = event
    if event is not None:
        return error_answer(*_status_of(event), PLAIN_JSON)
    return json_answer(latest, content_type=PLAIN_JSON)


async def _stream(request: web.Request, events: _Lines) -> web.StreamResponse:
    event = await events.get()
    if isinstance(event, Exception):
        return error_answer(*_status_of(event), PLAIN_JSON)
    lines = LineStream(request)
    try:
        while event is not None:
            await lines.write(event if isinstance(event, ProgressResponse) else {"error": _status_of(event)[1]})
            if not isinstance(event, ProgressResponse):
                break
            event = await events.get()
    except asyncio.CancelledError:
        if not was_cut_off(request):
            raise
        await lines.write({"error": SHUTTING_DOWN})
    return await lines.end()

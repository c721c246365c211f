"""The event loop of all registry traffic, in its own thread: state that pulls share belongs to it, without locks."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .errors import Cancelled

T = TypeVar("T")
POLL_SECONDS = 0.2  # between two calls of is_cancelled
CANCEL_SECONDS = 5.0  # for cancelled work to end; a disk may be slow
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="registry", daemon=True).start()
        return _loop


def run(work: Coroutine[Any, Any, T], is_cancelled: Callable[[], bool]) -> T:
    """Run `work` on the event loop, and return its result.

    Once `is_cancelled()`, or on Ctrl-C, the work is cancelled and awaited. Raises Cancelled, and what `work` raises.
    """
    ended = threading.Event()

    async def watched() -> T:
        try:
            return await work
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(watched(), _running_loop())
    try:
        while not concurrent.futures.wait([future], POLL_SECONDS).done:
            if is_cancelled():
                raise Cancelled("the client closed the request")
        return future.result()
    finally:
        if future.cancel():
            ended.wait(CANCEL_SECONDS)

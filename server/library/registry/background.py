"""The one event loop that speaks to registries, in a thread of its own: what is shared between pulls belongs to it,
and needs no locks.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine

from .errors import Cancelled

ASK_SECONDS = 0.2  # between two looks at whether the work is still wanted
CANCEL_SECONDS = 5.0  # what it gets to end; a disk may be slow
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="registry", daemon=True).start()
        return _loop


def run(work: Coroutine, is_cancelled: Callable[[], bool]):
    """The work's result. Once `is_cancelled()`, or on Ctrl-C, the work is cancelled and waited for. Raises
    Cancelled, and what it raises.
    """
    ended = threading.Event()

    async def watched():
        try:
            return await work
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(watched(), _running_loop())
    try:
        while not concurrent.futures.wait([future], ASK_SECONDS).done:
            if is_cancelled():
                raise Cancelled("the client has left")
        return future.result()
    finally:
        if future.cancel():
            ended.wait(CANCEL_SECONDS)

"""The running requests, and how they end when the server shuts down.

In: handlers, within `during()`. Out: `end(seconds)`, which gives them time to finish and then cancels them. A stream
that is cancelled then (`is_over`) gets a last line that says so; any other cancellation means that the client left.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

log = logging.getLogger(__name__)

SHUTTING_DOWN = "the server is shutting down; send the request again when it is back"
LAST_WORDS_SECONDS = 1.0  # for cancelled requests to write their last line


class RunningRequests:
    """Belongs to one event loop. is_ending: new requests are refused. is_over: running ones are cancelled."""

    def __init__(self):
        self._tasks: set[asyncio.Task] = set()
        self.any = asyncio.Event()  # set while a request runs
        self.is_ending = self.is_over = False

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def during(self) -> Iterator[None]:
        """Context manager for the task that answers a request."""
        task = asyncio.current_task()
        assert task is not None, "requests are answered in tasks"
        self._tasks.add(task)
        self.any.set()
        try:
            yield
        finally:
            self._tasks.discard(task)
            if not self._tasks:
                self.any.clear()

    async def end(self, seconds: float) -> None:
        """Refuse new requests; give running ones `seconds` to finish, then cancel them."""
        self.is_ending = True
        if self._tasks and seconds:
            log.info("waiting up to %g s for %d requests", seconds, len(self))
            await asyncio.wait(self._tasks, timeout=seconds)
        self.is_over = True
        if self._tasks:
            log.warning("cancelling %d running requests", len(self))
            deadline = time.monotonic() + LAST_WORDS_SECONDS
            while self._tasks and time.monotonic() < deadline:
                for task in self._tasks:
                    task.cancel()  # repeatedly: before Python 3.12, asyncio.wait_for may lose a cancellation
                await asyncio.wait(self._tasks, timeout=LAST_WORDS_SECONDS / 5)


RUNNING = web.AppKey("running", RunningRequests)


def was_cut_off(request: web.Request) -> bool:
    """Whether a handler was cancelled because the server shuts down: its stream then gets a last line."""
    return request.app[RUNNING].is_over

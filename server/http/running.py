"""The requests that are being answered, and how they come to an end with the server.

In: handlers, within `during()`. Out: `end(seconds)`, which lets them finish for a while, then cancels them; what was
cancelled so says so in its last line (`is_over`), where a plain cancellation is a client that left.
"""

import asyncio
import logging
import time
from contextlib import contextmanager

from aiohttp import web

log = logging.getLogger(__name__)

SHUTTING_DOWN = "the server is shutting down; send the request again when it is back"
LAST_WORDS_SECONDS = 1.0  # what cancelled requests get to write their last line


class RunningRequests:
    """Belongs to one event loop. is_ending: new requests are refused. is_over: those that still run are cut off."""

    def __init__(self):
        self._tasks: set[asyncio.Task] = set()
        self.any = asyncio.Event()  # set while a request runs
        self.is_ending = self.is_over = False

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def during(self):
        """The current task answers a request."""
        task = asyncio.current_task()
        self._tasks.add(task)
        self.any.set()
        try:
            yield
        finally:
            self._tasks.discard(task)
            if not self._tasks:
                self.any.clear()

    async def end(self, seconds: float):
        """No new requests; those that run have `seconds` to end, then they are cut off."""
        self.is_ending = True
        if self._tasks and seconds:
            log.info("%d requests have %g s to end", len(self), seconds)
            await asyncio.wait(self._tasks, timeout=seconds)
        self.is_over = True
        if self._tasks:
            log.warning("%d requests are cut off", len(self))
            deadline = time.monotonic() + LAST_WORDS_SECONDS
            while self._tasks and time.monotonic() < deadline:
                for task in self._tasks:
                    task.cancel()  # again and again: before Python 3.12, asyncio.wait_for may lose one
                await asyncio.wait(self._tasks, timeout=LAST_WORDS_SECONDS / 5)


RUNNING = web.AppKey("running", RunningRequests)


def was_cut_off(request) -> bool:
    """Whether the cancellation that reached a handler is the server's end: its stream then gets a last line."""
    return request.app[RUNNING].is_over

"""Threads for work that would block the event loop: a bounded pool for each kind of work, so that no kind waits for
another.

    found = await pools.run("store", store.get, name)

A call is abandoned when the awaiting task is cancelled or the client of the request has left (`client_left`). If it is
still queued, it never starts; if it runs, its loops find out from `vkbackend.cancellation` and stop.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import ParamSpec, TypeVar

from vkbackend import cancellation

from .errors import CLIENT_CLOSED_REQUEST, ApiError

P = ParamSpec("P")
T = TypeVar("T")

LOOK_SECONDS = 0.1  # between two checks whether the client is still connected
THREADS = {
    "json": 2,  # bodies of requests
    "answers": 2,  # encoding long answers
    "store": 8,  # reading from disk
    "changes": 16,  # changes to the store, most of the time waiting for its lock
    "prompts": 2,  # rendering models' templates, and tokenizing
    "long prompts": 2,  # the same for long texts and templates of requests, which hold up only each other
    "formats": 2,  # compiling schemas
    "models": 4,  # loading and unloading
    "registry": 4,  # hashing and moving downloaded files
    "garbage": 1,  # freeing the memory of large requests
}
LONG_BYTES = 64 << 10  # bodies above this count as long
client_left: ContextVar[Callable[[], bool]] = ContextVar("client_left", default=lambda: False)
body_bytes: ContextVar[int] = ContextVar("body_bytes", default=0)  # of the current request
_pools: dict[str, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def executor(name: str) -> ThreadPoolExecutor:
    """The threads of a pool, which start when they are first needed."""
    with _lock:
        if name not in _pools:
            _pools[name] = ThreadPoolExecutor(THREADS[name], name)
        return _pools[name]


def of_prompt() -> str:
    """The pool for the prompt of the current request."""
    return "long prompts" if body_bytes.get() > LONG_BYTES else "prompts"


async def run(name: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call `function(*arguments, **named)` in a thread of the pool `name`.

    Raises what it raises, and ApiError 499 once the client has left.
    """
    work = cancellation.Work()
    has_left = client_left.get()
    context = copy_context()

    def call() -> T:
        with work.current():
            cancellation.check()
            return function(*arguments, **named)

    future = asyncio.get_running_loop().run_in_executor(executor(name), lambda: context.run(call))
    try:
        while not future.done():
            await asyncio.wait([future], timeout=LOOK_SECONDS)
            if not future.done() and has_left():
                raise ApiError(CLIENT_CLOSED_REQUEST, "the client closed the request")
        return future.result()
    finally:
        work.give_up()
        future.cancel()  # no effect on a call that has ended


async def run_to_end(name: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Like `run`, for work that others rely on: once called, it runs to its end even if the client leaves."""
    context = copy_context()

    def call() -> T:
        return context.run(function, *arguments, **named)

    return await asyncio.shield(asyncio.get_running_loop().run_in_executor(executor(name), call))

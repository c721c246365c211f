"""Threads for what would hold up the event loop: a bounded pool for each kind of work, so that no kind waits for
another.

    found = await pools.run("store", store.get, name)

Work ends when nobody waits for it any more: a queued call never starts, and one that runs is told so
(`vkbackend.cancellation`), which its loops ask for. Nobody waits when the awaiting task is cancelled, or when the
client of the request (`client_left`) has left.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any

from vkbackend import cancellation

from .errors import CLIENT_CLOSED_REQUEST, ApiError

LOOK_SECONDS = 0.1  # between two looks at whether the client is still there
THREADS = {
    "json": 2,  # bodies of requests
    "answers": 2,  # long answers to JSON
    "store": 8,  # what waits for a disk
    "changes": 16,  # what waits for the store's lock
    "prompts": 2,  # templates of models, and tokens
    "long prompts": 2,  # the same for long texts and for templates of requests, so that they hold up each other only
    "formats": 2,  # schemas
    "models": 4,  # loading and unloading
    "registry": 4,  # hashing and moving files of a download
    "garbage": 1,  # freeing what a large request was made of
}
LONG_BYTES = 64 << 10  # of a body
client_left: ContextVar[Callable[[], bool]] = ContextVar("client_left", default=lambda: False)
body_bytes: ContextVar[int] = ContextVar("body_bytes", default=0)  # of the current request
_pools: dict[str, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def executor(name: str) -> ThreadPoolExecutor:
    """The threads of the pool `name`."""
    with _lock:
        if name not in _pools:
            _pools[name] = ThreadPoolExecutor(THREADS[name], name)
        return _pools[name]


def of_prompt() -> str:
    """The pool in which the prompt of the current request is made."""
    return "long prompts" if body_bytes.get() > LONG_BYTES else "prompts"


async def run(name: str, function: Callable, *arguments, **named) -> Any:
    """What `function(*arguments, **named)` returns, called in a thread of the pool `name`.

    Raises what it raises, and ApiError 499 once the client has left.
    """
    work, has_left = cancellation.Work(), client_left.get()

    def call():
        with work.current():
            cancellation.check()
            return function(*arguments, **named)

    future = asyncio.get_running_loop().run_in_executor(executor(name), copy_context().run, call)
    try:
        while not future.done():
            await asyncio.wait([future], timeout=LOOK_SECONDS)
            if not future.done() and has_left():
                raise ApiError(CLIENT_CLOSED_REQUEST, "the client closed the request")
        return future.result()
    finally:
        work.give_up()
        future.cancel()  # of no effect on one that has ended


async def run_to_end(name: str, function: Callable, *arguments) -> Any:
    """The same for work that others rely on: it runs to its end whoever leaves. Raises what it raises."""
    return await asyncio.shield(
        asyncio.get_running_loop().run_in_executor(executor(name), copy_context().run, function, *arguments)
    )

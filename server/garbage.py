"""Keeps the pauses for freeing memory short: each of them stops all threads, the event loop's among them.

The cyclic garbage collector visits every container, which takes half a second with a request of a million values in
memory. So `start` sets aside the objects of the program itself, and full collections wait until no large request is in
memory. A tree whose last reference is dropped is freed as a whole. So the containers of a large request are listed in
`made` until it is answered, and then freed piece by piece, the outermost first.
"""

import asyncio
import gc
import sys
import time
from contextvars import ContextVar

from . import pools

YOUNG = 10_000  # new containers between two collections of the youngest generation
NEVER = 1 << 30  # collections of the second generation between two automatic full ones
LOOK_SECONDS = 5.0  # between two checks whether a full collection is due
MOST_SECONDS = 60.0  # large requests delay a full collection no longer
ITEMS_PER_PIECE = 1000  # freed in one go
NO_OTHER_USER = 2  # sys.getrefcount of a parameter without other references

made: ContextVar[list | None] = ContextVar("made", default=None)  # containers of the current request
_usual = gc.get_threshold()
_large: set[int] = set()  # ids of the lists of unanswered requests; only the event loop uses it


def start() -> None:
    """Set aside what exists now, and leave full collections to `collect_when_quiet`.

    The little garbage that imports made is set aside as well: collecting it would take 30 ms of every start.
    """
    gc.freeze()
    gc.set_threshold(YOUNG, 10, NEVER)


def stop() -> None:
    """Restore what `start` changed."""
    gc.set_threshold(*_usual)
    gc.unfreeze()


async def collect_when_quiet() -> None:
    """Run full collections, whenever one is due and no large request is in memory. Never returns."""
    last = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if gc.get_count()[2] and (not _large or time.monotonic() - last > MOST_SECONDS):
            await pools.run_to_end("garbage", gc.collect)
            last = time.monotonic()


def begin() -> list:
    """The list for the containers of the current request, which is a large one."""
    kept = made.get()
    if kept is None:
        kept = []
        made.set(kept)
        _large.add(id(kept))
    return kept


def end() -> None:
    """Free the containers of the current request, if it is large, bit by bit. What is still in use stays."""
    kept = made.get()
    if kept is not None:
        made.set(None)
        _large.discard(id(kept))
        asyncio.get_running_loop().run_in_executor(pools.executor("garbage"), _free, kept)


def _free(containers: list) -> None:
    """Free from the end: outer containers come after their parts, which the list still holds while they are freed."""
    while containers:
        piece = containers[-ITEMS_PER_PIECE:]
        del containers[-ITEMS_PER_PIECE:]
        while piece:
            _take_apart(piece.pop())


def _take_apart(container: object) -> None:
    """Free the items of a long list or dict that has no other user bit by bit, too."""
    if sys.getrefcount(container) > NO_OTHER_USER:
        return
    if type(container) is list and len(container) > ITEMS_PER_PIECE:
        while container:
            del container[-ITEMS_PER_PIECE:]
    elif type(container) is dict and len(container) > ITEMS_PER_PIECE:
        while container:
            container.popitem()

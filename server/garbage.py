"""Short pauses for freeing memory: what Python does in one go holds up all threads, the event loop among them.

Two things would. The cyclic garbage collector looks at every container there is, half a second for a request of a
million values: so what the program itself consists of is set aside at the start, and everything else is looked at
only while no large request is there. And a tree that loses its last user is freed as a whole: so a large request's
containers are kept in a list (`made`) until it is answered, and freed from the outermost one on.
"""

import asyncio
import gc
import sys
import time
from contextvars import ContextVar

from . import pools

YOUNG = 10_000  # new containers between two looks at the youngest ones; at the next generation after 10 of them
NEVER = 1 << 30  # looks at the second generation between two at the oldest one
LOOK_SECONDS = 5.0  # between two looks at whether there may be garbage
MOST_SECONDS = 60.0  # for which large requests put a full collection off
ITEMS_PER_PIECE = 1000  # freed in one go
NO_OTHER_USER = 2  # references to an argument that nobody else holds: the parameter, and that of getrefcount

made: ContextVar[list | None] = ContextVar("made", default=None)  # containers of the current request
_usual = gc.get_threshold()
_large: set[int] = set()  # ids of these lists, of requests that are not answered yet; of the event loop alone


def start() -> None:
    """Set aside what is there now, and leave the oldest generation to `collect_when_quiet`."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, NEVER)


def stop() -> None:
    """Leave all of it to Python again."""
    gc.set_threshold(*_usual)
    gc.unfreeze()


async def collect_when_quiet() -> None:
    """Collect garbage for ever, while no large request is there."""
    last = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if gc.get_count()[2] and (not _large or time.monotonic() - last > MOST_SECONDS):
            await pools.run_to_end("garbage", gc.collect)
            last = time.monotonic()


def begin() -> list:
    """The list for the containers of the current request, which is large."""
    kept = made.get()
    if kept is None:
        kept = []
        made.set(kept)
        _large.add(id(kept))
    return kept


def end() -> None:
    """Free the containers of the current request, if it is large, bit by bit. Nothing else must use them by now."""
    kept = made.get()
    if kept is not None:
        made.set(None)
        _large.discard(id(kept))
        asyncio.get_running_loop().run_in_executor(pools.executor("garbage"), _free, kept)


def _free(containers: list) -> None:
    """Inner ones come first: so the last are the outermost, whose parts are still held by this list when they go."""
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

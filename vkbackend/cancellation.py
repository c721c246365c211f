"""Work that may be given up: whoever waits for it says so, and its loops ask.

    work = Work()
    with work.current():
        ...                # somewhere inside, from time to time: cancellation.check()
    work.give_up()         # from any thread

Work that nobody declared (a command, a test) is never given up.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class GivenUp(Exception):
    """Nobody waits for this work any more."""


class Work:
    """One piece of work."""

    def __init__(self):
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """The next `check` inside the work raises GivenUp. From any thread."""
        self._given_up.set()

    @property
    def is_given_up(self) -> bool:
        return self._given_up.is_set()

    @contextmanager
    def current(self) -> Iterator[None]:
        """What runs inside is this work."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[Work | None] = ContextVar("work", default=None)


def check() -> None:
    """Raises GivenUp where nobody waits for the current work any more. Takes a tenth of a microsecond."""
    work = _current.get()
    if work is not None and work.is_given_up:
        raise GivenUp("nobody waits for this work any more")

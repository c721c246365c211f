"""Cancellation of work that nobody waits for any more.

    work = Work()
    with work.current():
        ...                # long loops inside call cancellation.check() from time to time
    work.give_up()         # on any thread

Code that runs outside of a `Work` (a command, a test) is never cancelled.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class GivenUp(Exception):
    """The current work was cancelled."""


class Work:
    """A piece of work that can be cancelled."""

    def __init__(self) -> None:
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Cancel: the next `check` inside the work raises GivenUp. May be called on any thread."""
        self._given_up.set()

    @property
    def is_given_up(self) -> bool:
        return self._given_up.is_set()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this the current work of the code inside."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[Work | None] = ContextVar("work", default=None)


def check() -> None:
    """Raises GivenUp if the current work was cancelled. Takes a tenth of a microsecond."""
    work = _current.get()
    if work is not None and work.is_given_up:
        raise GivenUp("nobody waits for this work any more")

"""Limits the time and memory that a template may use.

Templates come from models and requests and are untrusted. Go's own engine would let them run forever or use up the
server's memory.
"""

import time

from vkbackend import cancellation

MAX_STEPS = 2_000_000  # a few seconds; a long conversation takes 1% of it
MAX_SECONDS = 5.0  # of processor time
STEPS_PER_CHECK = 1000  # between checks of the time and for cancellation; about a millisecond
SLOW_SECONDS = 0.1  # after this time, which few templates need, each check pauses for the server's other threads
PAUSE_SECONDS = 0.001
MAX_CHARS = 16 << 20  # of one text; four times the longest contexts
CHARS_PER_STEP = 16


class BudgetExceeded(Exception):
    """The template exceeded a limit."""


class Budget:
    """Counts the steps of all runs for one prompt. Belongs to one thread.

    Raises BudgetExceeded, and GivenUp if the request was cancelled.
    """

    def __init__(self):
        self.steps = 0
        self._next_check = STEPS_PER_CHECK
        self._started = time.thread_time()

    def count(self, steps: int = 1) -> None:
        """Count steps of a run. Raises BudgetExceeded, and GivenUp if the request was cancelled."""
        self.steps += steps
        if self.steps >= self._next_check:
            self._check()

    def _check(self) -> None:
        self._next_check = self.steps + STEPS_PER_CHECK
        if self.steps > MAX_STEPS:
            raise BudgetExceeded(f"the template takes more than {MAX_STEPS} steps")
        seconds = time.thread_time() - self._started
        if seconds > MAX_SECONDS:
            raise BudgetExceeded(f"the template takes more than {MAX_SECONDS:g} seconds")
        cancellation.check()
        if seconds > SLOW_SECONDS:
            time.sleep(PAUSE_SECONDS)

    def count_chars(self, number: int) -> None:
        """Count reading or writing a text of this length."""
        self.count(number // CHARS_PER_STEP)


class Writer:
    """Collects text, up to MAX_CHARS."""

    def __init__(self):
        self._pieces: list[str] = []
        self._size = 0

    def add(self, piece: str) -> None:
        """Append text. Raises BudgetExceeded if it becomes longer than MAX_CHARS."""
        self._size += len(piece)
        if self._size > MAX_CHARS:
            raise BudgetExceeded(f"the template writes more than {MAX_CHARS} characters")
        self._pieces.append(piece)

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._pieces)

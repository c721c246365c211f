"""What one use of a template may cost. A template comes from whoever made a model, or with a request: it must take
neither all of the server's memory nor its time for ever, which Go's own engine would let it.
"""

import time

from vkbackend import cancellation

MAX_STEPS = 2_000_000  # a few seconds; a long conversation takes a hundredth
MAX_SECONDS = 5.0  # of the processor's time
STEPS_PER_LOOK = 1000  # at the time, and at whether anybody still waits; a millisecond
SLOW_SECONDS = 0.1  # after which a template lets the server's other threads run at each look: hardly any takes so long
PAUSE_SECONDS = 0.001
MAX_CHARS = 16 << 20  # of any one text; the longest contexts are a quarter of it
CHARS_PER_STEP = 16


class BudgetExceeded(Exception):
    pass


class Budget:
    """Counts steps over all runs that make one prompt; belongs to one thread. Raises BudgetExceeded, and GivenUp
    where nobody waits any more.
    """

    def __init__(self):
        self.steps, self._next_look = 0, STEPS_PER_LOOK
        self._started = time.thread_time()

    def count(self, steps: int = 1) -> None:
        self.steps += steps
        if self.steps >= self._next_look:
            self._look()

    def _look(self) -> None:
        self._next_look = self.steps + STEPS_PER_LOOK
        if self.steps > MAX_STEPS:
            raise BudgetExceeded(f"the template takes more than {MAX_STEPS} steps")
        seconds = time.thread_time() - self._started
        if seconds > MAX_SECONDS:
            raise BudgetExceeded(f"the template takes more than {MAX_SECONDS:g} seconds")
        cancellation.check()
        if seconds > SLOW_SECONDS:
            time.sleep(PAUSE_SECONDS)

    def count_chars(self, number: int) -> None:
        """Of a text that is read or written."""
        self.count(number // CHARS_PER_STEP)


class Writer:
    """A text that grows, up to MAX_CHARS."""

    def __init__(self):
        self._pieces, self._size = [], 0

    def add(self, piece: str) -> None:
        self._size += len(piece)
        if self._size > MAX_CHARS:
            raise BudgetExceeded(f"the template writes more than {MAX_CHARS} characters")
        self._pieces.append(piece)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

"""Finds the messages of a conversation that fit the context, with few countings of tokens."""

from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate

CHARACTERS_PER_TOKEN = 3.0  # until two countings give a better guess
CAUTION = 0.8  # of what is known to be too much
MOST_GUESSES = 8  # then bisect
NUM_NEIGHBORS = 1  # counted after the first message that fits


class _Search:
    """The search for the first message with which the prompt fits.

    size(first): the number of tokens of the prompt that begins with message `first`, or any number above `most` if it
    is too long. lengths: characters of each message, by which places are guessed. The prompt from message 0 on is too
    long.
    """

    def __init__(self, lengths: list[int], most: int, size: Callable[[int], int]):
        self.last = len(lengths) - 1
        self._most = most
        self._size = size
        self._characters = list(accumulate(reversed(lengths)))  # of the last 1, 2, ... messages
        self._sizes: dict[int, int] = {}

    def fits(self, first: int) -> bool:
        if first not in self._sizes:
            self._sizes[first] = self._size(first)
        return self._sizes[first] <= self._most

    def guess(self, first: int, too_long: int) -> int:
        """The first message that fits if tokens are in proportion to characters. first: the earliest known to fit."""
        start = max(index for index in self._sizes if index >= first and self.fits(index))
        near, far, beyond = (self._characters[self.last - index] for index in (start, first, too_long))
        missing = self._most - self._sizes[first]
        per_token = CHARACTERS_PER_TOKEN
        if self._sizes[first] > self._sizes[start]:
            per_token = (far - near) / (self._sizes[first] - self._sizes[start])
        if far + missing * per_token >= beyond:  # which are too many
            per_token = CAUTION * (beyond - far) / max(missing, 1)
        return self.last + 1 - bisect_left(self._characters, far + missing * per_token + 1)

    def by_guesses(self) -> int:
        """The first message that fits, with the one before it too long. The last message fits, the first does not."""
        too_long, first = 0, self.last
        num_guesses, step = 0, 1
        while first - too_long > 1:
            middle = self.guess(first, too_long) if num_guesses < MOST_GUESSES else (first + too_long) // 2
            if not too_long < middle < first:  # the guess is at an end: take doubling steps from there
                middle = min(too_long + step, first - 1) if middle <= too_long else max(first - step, too_long + 1)
                step *= 2
            num_guesses += 1
            if self.fits(middle):
                first = middle
            else:
                too_long = middle
        return first

    def grows(self, first: int) -> bool:
        """Whether the prompts grow with each message: those that were counted, the next ones to `first`, and the last
        1, 2, 4, 8 ... messages, which take as long as one more prompt.
        """
        near = range(first, min(first + NUM_NEIGHBORS, self.last) + 1)
        spread = [self.last - (1 << power) for power in range(20) if self.last - (1 << power) > first]
        if not all(self.fits(index) for index in (*near, *spread)):
            return False
        sizes = [size for index, size in sorted(self._sizes.items()) if index >= first]
        return all(longer >= shorter for longer, shorter in zip(sizes, sizes[1:]))

    def one_by_one(self) -> int:
        """The first message to keep, from the last one backwards."""
        first = self.last
        while first > 1 and self.fits(first - 1):
            first -= 1
        return first


def first_fitting(lengths: list[int], most: int, size: Callable[[int], int]) -> int:
    """Return the index of the first message to keep: the last message, and those before it up to the first with which
    the prompt has more than `most` tokens. The last message is kept even if it is too long.

    lengths, size: see `_Search`; size(0) is more than `most`. If prompts grow with each message, a few countings are
    enough. If they are found not to grow, as with a template that shortens some conversations, the prompts are counted
    message by message.
    """
    search = _Search(lengths, most, size)
    if search.last == 0 or not search.fits(search.last):
        return search.last
    first = search.by_guesses()
    return first if search.grows(first) else search.one_by_one()

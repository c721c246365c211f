"""Long texts in parts: where a text can be cut without changing its tokens, and the two ends of a text that is longer
than the context.

In: a text. Out: its parts, or some of its tokens. A text that is too long for the context is not tokenized as a whole.
"""

import re
from collections.abc import Iterator
from typing import Protocol

LONG = 64 << 10  # characters; a shorter text is one part
PART = 32 << 10  # fewest characters of a part
# A word without a place to cut is cut after this many characters if its middle is to be dropped anyway. Most lengths of
# tokens divide it, so a run of a single character has the end of a token there.
BLOCK = 55440
AROUND_CUT = 256  # characters before and after a cut in which to look for a special token


def parts(text: str, place: re.Pattern, special: list[str]) -> list[tuple[int, int]]:
    """(start, end) of parts whose tokens together are those of the text.

    place: matches where the tokenizer's words end in any context. special: special tokens that a cut at such a place
    could split or touch; a text with one of them is one part.
    """
    if len(text) <= LONG or any(token in text for token in special):
        return [(0, len(text))]
    bounds = [0]
    while len(text) - bounds[-1] > PART:
        found = _first_place(text, place, bounds[-1] + PART)
        if found is None:
            break
        bounds.append(found)
    return list(zip(bounds, [*bounds[1:], len(text)]))


def _first_place(text: str, place: re.Pattern, start: int) -> int | None:
    """The first match from `start` on. It searches in steps, because other threads cannot run during a search."""
    while start < len(text):
        found = place.search(text, start, start + PART + 1)
        if found is not None:
            return found.start()
        start += PART
    return None


def blocks(text: str, bounds: list[tuple[int, int]], special: list[str]) -> Iterator[tuple[int, int]]:
    """The parts `bounds`, with too long ones cut anywhere except inside special tokens."""
    for start, end in bounds:
        while end - start > 2 * BLOCK:
            cut = _outside_special(text, start + BLOCK, special)
            yield start, cut
            start = cut
        yield start, end


def _outside_special(text: str, cut: int, special: list[str]) -> int:
    """`cut`, or the start of the special token that it would split."""
    first = cut - AROUND_CUT
    around = text[first : cut + AROUND_CUT]
    for token in special:
        at = around.find(token)
        while at >= 0:
            if first + at < cut < first + at + len(token):
                return first + at
            at = around.find(token, at + 1)
    return cut


class Encoder(Protocol):
    """The part of a `Tokenizer` that encodes texts."""

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """The tokens of a text. add_special: with the tokens that the model expects around it."""
        ...

    def encode_ends(self, text: str, most: int, keep: int, add_special: bool = True) -> list[int]:
        """The tokens of `encode`, at most `most`: of a longer text the first `keep` tokens and the last ones."""
        ...


def encode_at_most(tokenizer: Encoder, text: str, most: int, keep: int = 0, add_special: bool = True) -> list[int]:
    """The tokens of a text, at most `most` if it is long: the first `keep` tokens and the last ones.

    The tokens of a text of at most `LONG` characters are returned whole, however many they are.
    """
    if len(text) <= LONG:
        return tokenizer.encode(text, add_special=add_special)
    return tokenizer.encode_ends(text, most, min(keep, most), add_special)

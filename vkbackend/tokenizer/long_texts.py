"""Long texts in parts: places where a text can be cut without a change to its tokens, and the ends of one that is
longer than its context.

In: a text. Out: its parts, or as many tokens as are wanted of it. A text that cannot fit is not tokenized as a
whole.
"""

import re
from collections.abc import Iterator

LONG = 64 << 10  # characters; a shorter text is one part
PART = 32 << 10  # characters of a part, where there is a place to cut
# A word without such a place is cut here where its middle is to be dropped anyway. Runs of one character have their
# tokens' ends here too, for most lengths of tokens divide it.
BLOCK = 55440
AROUND_CUT = 256  # characters that are looked at for a special token in the way


def parts(text: str, place: re.Pattern, special: list[str]) -> list[tuple[int, int]]:
    """(start, end) of parts whose tokens, one behind the other, are those of the text.

    place: matches where the tokenizer's words end whatever stands around. special: tokens that a cut at such a place
    may touch.
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
    """From `start` on. Looked for bit by bit: other threads get their turn only in between."""
    while start < len(text):
        found = place.search(text, start, start + PART + 1)
        if found is not None:
            return found.start()
        start += PART
    return None


def blocks(text: str, bounds: list[tuple[int, int]], special: list[str]) -> Iterator[tuple[int, int]]:
    """The parts, those that are too long cut anywhere but inside of a special token."""
    for start, end in bounds:
        while end - start > 2 * BLOCK:
            cut = _beside_special(text, start + BLOCK, special)
            yield start, cut
            start = cut
        yield start, end


def _beside_special(text: str, cut: int, special: list[str]) -> int:
    """`cut`, or the beginning of the special token that it lies in."""
    first = cut - AROUND_CUT
    around = text[first : cut + AROUND_CUT]
    for token in special:
        at = around.find(token)
        while at >= 0:
            if first + at < cut < first + at + len(token):
                return first + at
            at = around.find(token, at + 1)
    return cut


def encode_at_most(tokenizer, text: str, most: int, keep: int = 0, add_special: bool = True) -> list[int]:
    """The tokens of a text; of one that has more than `most`, the first `keep` and the last ones, `most` together.

    A short text is tokenized as a whole, and left as long as it is.
    """
    if len(text) <= LONG:
        return tokenizer.encode(text, add_special=add_special)
    return tokenizer.encode_ends(text, most, min(keep, most), add_special)

"""Tokens coloured by their probability: green for certain, over yellow, to red for a guess.

In: the text of a streamed answer and its log-probabilities. Out: (text, probability) pieces, and their colours. A
piece of text and the tokens of the same chunk need not end at the same place: text waits for whole characters and
for stop strings, tokens do not.
"""

import math
import os
import sys
from collections import deque

LEGEND_STEPS = (1.0, 0.75, 0.5, 0.25, 0.05)


class TokenText:
    """Joins text with the tokens it came from; a character belongs to the token of its first byte."""

    def __init__(self):
        self._tokens: deque[list] = deque()  # [bytes left, probability]

    def feed(self, text: str, logprobs: list[dict] | None) -> list[tuple[str, float | None]]:
        """-> neighbouring characters of one token as one piece; probability None where no token fits the text."""
        for entry in logprobs or []:
            own = entry.get("bytes")
            self._tokens.append(
                [len(own) if own is not None else len(entry["token"].encode()), math.exp(min(entry["logprob"], 0.0))]
            )
        pieces: list[tuple[str, float | None]] = []
        for character in text:
            owner = self._take(len(character.encode("utf-8", "surrogatepass")))
            if pieces and pieces[-1][1] is owner:
                pieces[-1] = (pieces[-1][0] + character, owner)
            else:
                pieces.append((character, owner))
        return [(part, owner[1] if owner else None) for part, owner in pieces]

    def _take(self, num_bytes: int):
        """Use up bytes of the tokens in front; -> the token of the first."""
        while self._tokens and self._tokens[0][0] <= 0:
            self._tokens.popleft()
        owner = self._tokens[0] if self._tokens else None
        while num_bytes and self._tokens:
            used = min(num_bytes, self._tokens[0][0])
            self._tokens[0][0] -= used
            num_bytes -= used
            if not self._tokens[0][0]:
                self._tokens.popleft()
        return owner


def rgb(probability: float) -> tuple[int, int, int]:
    """1 is green, one half yellow, 0 red."""
    p = min(max(probability, 0.0), 1.0)
    return (220, int(400 * p), 40) if p < 0.5 else (int(440 * (1 - p)), 200, 40)


def wanted(no_color: bool) -> bool:
    """Colours go to a terminal only, and not where NO_COLOR is set (https://no-color.org) or the terminal knows
    none.
    """
    return not no_color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and sys.stdout.isatty()


class Painter:
    """Writes coloured pieces to stdout, in as many colours as the terminal has.

    Keeps no text: rich's console holds what it prints until it is written, and would print it again after a Ctrl-C
    in between.
    """

    def __init__(self):
        from rich.console import COLOR_SYSTEMS, Console

        self._colours = COLOR_SYSTEMS.get(Console().color_system)  # None: the terminal has no colours

    def write(self, text: str, probability: float | None) -> None:
        sys.stdout.write(self._painted(text, _style(probability)))

    def legend(self) -> None:
        steps = [self._painted(f" {step:.0%} ", _style(step)) for step in LEGEND_STEPS]
        sys.stdout.write(self._painted("probability: ", "dim") + "".join(steps) + "\n")

    def _painted(self, text: str, style: str) -> str:
        from rich.style import Style

        return Style.parse(style).render(text, color_system=self._colours)


def _style(probability: float | None) -> str:
    return "" if probability is None else "rgb({},{},{})".format(*rgb(probability))

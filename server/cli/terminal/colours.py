"""Colours tokens by their probability, from green (certain) through yellow to red (a guess).

In: the text of a streamed answer and its log-probabilities. Out: (text, probability) pieces, and their colours. The
text and the tokens of a chunk may end at different places: text is held back for whole characters and stop strings.
"""

import math
import os
import sys
from collections import deque
from dataclasses import dataclass

LEGEND_STEPS = (1.0, 0.75, 0.5, 0.25, 0.05)


@dataclass(eq=False)
class _Token:
    bytes_left: int
    probability: float


class TokenText:
    """Matches text with its tokens; a character belongs to the token of its first byte."""

    def __init__(self):
        self._tokens: deque[_Token] = deque()

    def feed(self, text: str, logprobs: list[dict] | None) -> list[tuple[str, float | None]]:
        """Return the text in pieces, one per token, as (text, probability). None: no token matches."""
        for entry in logprobs or []:
            own = entry.get("bytes")
            num_bytes = len(own) if own is not None else len(entry["token"].encode())
            self._tokens.append(_Token(num_bytes, math.exp(min(entry["logprob"], 0.0))))
        pieces: list[tuple[str, _Token | None]] = []
        for character in text:
            owner = self._take(len(character.encode("utf-8", "surrogatepass")))
            if pieces and pieces[-1][1] is owner:
                pieces[-1] = (pieces[-1][0] + character, owner)
            else:
                pieces.append((character, owner))
        return [(part, owner.probability if owner else None) for part, owner in pieces]

    def _take(self, num_bytes: int) -> _Token | None:
        """Consume bytes of the first tokens. Returns the token of the first byte."""
        while self._tokens and self._tokens[0].bytes_left <= 0:
            self._tokens.popleft()
        owner = self._tokens[0] if self._tokens else None
        while num_bytes and self._tokens:
            first = self._tokens[0]
            used = min(num_bytes, first.bytes_left)
            first.bytes_left -= used
            num_bytes -= used
            if not first.bytes_left:
                self._tokens.popleft()
        return owner


def rgb(probability: float) -> tuple[int, int, int]:
    """Return the colour of a probability: 1 is green, 0.5 yellow, 0 red."""
    p = min(max(probability, 0.0), 1.0)
    return (220, int(400 * p), 40) if p < 0.5 else (int(440 * (1 - p)), 200, 40)


def wanted(no_color: bool) -> bool:
    """Whether to use colours: only on a terminal that has them, and not if NO_COLOR is set (https://no-color.org)."""
    return not no_color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and sys.stdout.isatty()


class Painter:
    """Writes coloured pieces to stdout, with as many colours as the terminal has.

    Does not print through rich's console, which buffers text and would print it again after a Ctrl-C.
    """

    def __init__(self):
        from rich.console import COLOR_SYSTEMS, Console

        self._colours = COLOR_SYSTEMS.get(Console().color_system or "")  # None: the terminal has no colours

    def write(self, text: str, probability: float | None) -> None:
        """Write a piece in the colour of its probability, 0 to 1; without colour if that is None."""
        sys.stdout.write(self._painted(text, _style(probability)))

    def legend(self) -> None:
        """Write a line that shows which colour means which probability."""
        steps = [self._painted(f" {step:.0%} ", _style(step)) for step in LEGEND_STEPS]
        sys.stdout.write(self._painted("probability: ", "dim") + "".join(steps) + "\n")

    def _painted(self, text: str, style: str) -> str:
        from rich.style import Style

        return Style.parse(style).render(text, color_system=self._colours)


def _style(probability: float | None) -> str:
    return "" if probability is None else "rgb({},{},{})".format(*rgb(probability))

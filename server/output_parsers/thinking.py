"""Separates a model's thinking, which stands between two tags at the start of its output, from the answer."""

from enum import Enum, auto

from ..go.text import SPACE
from .parsed import Parsed, overlap


class _At(Enum):
    START = auto()  # only white space and a beginning of the opening tag so far
    OPENED = auto()  # after the opening tag and white space
    THOUGHTS = auto()
    CLOSED = auto()  # after the closing tag and white space
    ANSWER = auto()


class ThinkingParser:
    """Parses thinking. Output that does not begin with the opening tag is all answer.

    White space after the opening tag and around the closing tag is dropped.
    opened: the prompt ends with the opening tag, so the output begins with thinking.
    """

    def __init__(self, opening: str, closing: str, opened: bool = False):
        self.opening = opening
        self.closing = closing
        self.at = _At.OPENED if opened else _At.START
        self._held = ""

    def add(self, text: str, done: bool = False) -> Parsed:
        text, self._held = self._held + text, ""
        if self.at is _At.START:
            bare = text.lstrip(SPACE)
            if bare.startswith(self.opening):
                self.at, text = _At.OPENED, _split(bare, self.opening)[1]
            elif self.opening.startswith(bare) and not done:
                self._held = text
                return Parsed()
            else:
                self.at = _At.ANSWER
        if self.at is _At.OPENED:
            text = text.lstrip(SPACE)
            if not text:
                return Parsed()
            self.at = _At.THOUGHTS
        if self.at is _At.THOUGHTS:
            return self._thoughts(text, done)
        if self.at is _At.CLOSED:
            text = text.lstrip(SPACE)
            self.at = _At.ANSWER if text else _At.CLOSED
        return Parsed(text)

    def _thoughts(self, text: str, done: bool) -> Parsed:
        if self.closing in text:
            thoughts, answer = _split(text, self.closing)
            answer = answer.lstrip(SPACE)
            self.at = _At.ANSWER if answer else _At.CLOSED
            return Parsed(answer, thoughts)
        shown = len(text) if done else len(text) - overlap(text, self.closing)
        self._held = text[shown:]
        return Parsed(thinking=text[:shown])


def _split(text: str, tag: str) -> tuple[str, str]:
    """Split at a tag that `text` contains. An empty tag splits after the first character, as in Go."""
    before, _, rest = text.partition(tag) if tag else (text[:1], "", text[1:])
    return before, rest

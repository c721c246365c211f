"""What every parser of a model's output gives back, and small helpers on text that they share."""

from dataclasses import dataclass, field
from typing import Protocol

from ..conversation import ToolCall

# What Go's unicode.IsSpace says of characters; str.strip() without arguments takes more.
SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


class ParseError(Exception):
    """The model began a tool call that cannot be read."""


@dataclass
class Parsed:
    """A piece of output, taken apart. calls have no ids yet."""

    content: str = ""
    thinking: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.content or self.thinking or self.calls)


class OutputParser(Protocol):
    """Takes one answer apart while it comes."""

    def add(self, text: str, done: bool = False) -> Parsed:
        """The next piece of raw output -> what can be shown by now; the rest is held back. done: nothing follows. Raises ParseError."""
        ...


def overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` are a beginning of `tag` (perhaps all of it)."""
    return next((size for size in range(min(len(tag), len(text)), 0, -1) if text.endswith(tag[:size])), 0)


def split_trailing_space(text: str) -> tuple[str, str]:
    """(text, white space at its end)"""
    kept = text.rstrip(SPACE)
    return kept, text[len(kept):]

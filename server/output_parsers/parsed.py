"""What every parser of a model's output gives back, and small helpers on text that they share."""

from dataclasses import dataclass, field
from typing import Protocol

from ..go.text import SPACE
from ..wire.conversation import ToolCall

# What Go's unicode.IsSpace says of characters; str.strip() without arguments takes more.


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
        """The next piece of raw output -> what can be shown by now; the rest is held back. done: nothing follows.
        Raises ParseError.
        """
        ...


def overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` are a beginning of `tag` (perhaps all of it)."""
    return next((size for size in range(min(len(tag), len(text)), 0, -1) if text.endswith(tag[:size])), 0)


def split_trailing_space(text: str) -> tuple[str, str]:
    """(text, white space at its end)"""
    kept = text.rstrip(SPACE)
    return kept, text[len(kept) :]

"""The interface of the output parsers, and text helpers they share."""

from dataclasses import dataclass, field
from typing import Protocol

from ..go.text import SPACE
from ..wire.conversation import Tool, ToolCall


class ParseError(Exception):
    """The model wrote a tool call that cannot be parsed."""


@dataclass
class Parsed:
    """The parsed part of an output. The calls have no ids yet."""

    content: str = ""
    thinking: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.content or self.thinking or self.calls)


class OutputParser(Protocol):
    """Parses one answer as it streams in."""

    def add(self, text: str, done: bool = False) -> Parsed:
        """Parse the next piece of raw output. Returns what is certain so far and holds back the rest.

        done: this is the last piece. Raises ParseError.
        """
        ...


class BuiltinParser(OutputParser, Protocol):
    """A parser that a model's config can name. tools: the tools to show in the prompt."""

    knows_thinking: bool
    knows_tools: bool
    tools: list[Tool]


def overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that is a beginning of `tag` (or all of it)."""
    return next((size for size in range(min(len(tag), len(text)), 0, -1) if text.endswith(tag[:size])), 0)


def split_trailing_space(text: str) -> tuple[str, str]:
    """Split into (text, trailing white space): white space as Go's unicode.IsSpace defines it, not as str.strip()."""
    kept = text.rstrip(SPACE)
    return kept, text[len(kept) :]

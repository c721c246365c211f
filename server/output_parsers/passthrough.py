"""The parser that passes the output through unchanged."""

from ..wire.conversation import Message, Tool
from .parsed import Parsed


class PassthroughParser:
    """Returns all text as content."""

    knows_thinking = knows_tools = False

    def __init__(self, tools: list[Tool], last_message: Message | None):
        self.tools = tools

    def add(self, text: str, done: bool = False) -> Parsed:
        return Parsed(text)

"""Harmony, the format of gpt-oss: messages of `<|start|>role<|channel|>name to=recipient<|message|>text<|end|>`.

The channel `analysis` holds thinking, a message with a recipient is a tool call, everything else is content. The prompt
names tools as TypeScript identifiers; the parsed calls use their original names.
"""

import re
from collections.abc import Container
from dataclasses import replace
from enum import Enum, auto

from ..go.decode import JSONSyntaxError, parse_all
from ..go.kinds import to_plain
from ..go.text import SPACE
from ..wire.conversation import Message, Tool, ToolCall, ToolCallFunction
from .parsed import Parsed, ParseError, overlap

# Tools the model was trained with keep their names.
OWN_TOOLS = ("browser.open", "browser.search", "browser.find", "python")
START, END, MESSAGE, CHANNEL, CONSTRAIN = "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>"


class _In(Enum):
    NOTHING = auto()
    HEADER = auto()
    CONTENT = auto()
    THOUGHTS = auto()
    CALL = auto()


class HarmonyParser:
    """Reads tool calls when the output ends: a call is the last message of an answer."""

    knows_thinking = knows_tools = True

    def __init__(self, tools: list[Tool], last_message: Message | None):
        self._own_names: dict[str, str] = {}  # name in the prompt -> name in the request
        self.tools = [self._renamed(tool) for tool in tools]
        self._at = _In.NOTHING
        self._held = f"{START}assistant"  # the end of the prompt
        self._calls: list[list[str]] = []  # [recipient, text]
        if last_message is not None and last_message.role == "assistant":
            if last_message.content:
                self._at, self._held = _In.CONTENT, ""
            elif last_message.thinking:
                self._at, self._held = _In.THOUGHTS, ""

    def add(self, text: str, done: bool = False) -> Parsed:
        parsed = Parsed()
        self._held += text
        while self._step(parsed):
            pass
        if done:
            if self._at in (_In.CONTENT, _In.THOUGHTS, _In.CALL):
                self._emit(parsed, self._held)  # the beginning of END that never completed
            parsed.calls += [ToolCall("", self._function(*call)) for call in self._calls]
        return parsed

    def _step(self, parsed: Parsed) -> bool:
        """Consume the next part of the held text. Returns False if more text is needed."""
        if self._at is _In.NOTHING:
            _, found, rest = self._held.partition(START)
            if found:
                self._at, self._held = _In.HEADER, rest
            return bool(found)
        if self._at is _In.HEADER:
            header, found, rest = self._held.partition(MESSAGE)
            if found:
                self._read_header(header)
                self._held = rest
            return bool(found)
        body, found, rest = self._held.partition(END)
        if not found:
            body = self._held[: len(self._held) - overlap(self._held, END)]
            rest = self._held[len(body) :]
        self._held = rest
        self._emit(parsed, body)
        if found:
            self._at = _In.NOTHING
        return bool(found)

    def _emit(self, parsed: Parsed, body: str) -> None:
        if self._at is _In.CONTENT:
            parsed.content += body
        elif self._at is _In.THOUGHTS:
            parsed.thinking += body
        else:
            self._calls[-1][1] += body

    def _read_header(self, header: str) -> None:
        """Read a header such as `assistant<|channel|>commentary to=functions.f <|constrain|>json`.

        The recipient may also stand before the channel or replace the role.
        """
        before, found, rest = header.replace(CONSTRAIN, " " + CONSTRAIN).partition(CHANNEL)
        channel = re.split(f"[{SPACE}]", rest, maxsplit=1)[0] if found else ""
        words = re.split(f"[{SPACE}]+", f"{before}{rest[len(channel) :]}".strip(SPACE))
        recipient = next((word[3:] for word in words[:2] if word.startswith("to=")), "")
        self._at = _In.THOUGHTS if channel == "analysis" else _In.CONTENT
        if recipient and channel in ("analysis", "commentary"):
            self._at = _In.CALL
            self._calls.append([recipient, ""])

    def _function(self, recipient: str, text: str) -> ToolCallFunction:
        name = recipient.removeprefix("functions.")
        try:
            arguments = to_plain(parse_all(text.encode("utf-8", "surrogatepass")))
            if not isinstance(arguments, dict):
                raise JSONSyntaxError("the arguments are not an object")
        except JSONSyntaxError as error:
            raise ParseError(f"error parsing tool call: raw='{text}', err={error}") from None
        return ToolCallFunction(0, self._own_names.get(name, name), arguments)

    def _renamed(self, tool: Tool) -> Tool:
        name = (
            tool.function.name if tool.function.name in OWN_TOOLS else identifier(tool.function.name, self._own_names)
        )
        self._own_names[name] = tool.function.name
        return replace(tool, function=replace(tool.function, name=name))


def identifier(name: str, taken: Container[str]) -> str:
    """Turn a name into a TypeScript identifier that is not in `taken`.

    Characters that an identifier cannot hold are dropped or replaced by `_`; a number is added if the name is taken.
    """
    name = "".join(
        "_" if character in " -." else character for character in name if character in " -._$" or character.isalnum()
    )
    if not name:
        name = "unnamed"
    elif name[0].isdecimal():
        name = "_" + name
    wanted, number = name, 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name

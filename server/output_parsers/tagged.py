"""Parsers of the Qwen 3 families, whose tool calls stand between `<tool_call>` and `</tool_call>`.

The families differ in what stands between the tags.
"""

import re
from collections.abc import Callable

from ..go.decode import JSONSyntaxError, parse_all
from ..go.kinds import to_plain
from ..go.text import SPACE
from ..wire.conversation import Message, Tool, ToolCall, ToolCallFunction, ToolProperty
from .parsed import Parsed, ParseError, overlap, split_trailing_space

OPENING, CLOSING = "<tool_call>", "</tool_call>"


class TaggedCalls:
    """Splits tool calls from content. White space around a call is dropped.

    read_call: text between the tags -> ToolCallFunction.
    patient: drop white space after a call even if it arrives in a later piece.
    An incomplete call at the end of the output is dropped.
    """

    def __init__(self, read_call: Callable[[str], ToolCallFunction], patient: bool):
        self._read_call = read_call
        self._patient = patient
        self._held = ""
        self._in_call = False
        self._skips_space = False

    def skip_space(self) -> None:
        """Drop white space until other text arrives."""
        self._skips_space = True

    def add(self, text: str, done: bool) -> Parsed:
        parsed = Parsed()
        text, self._held = self._held + text, ""
        if self._skips_space:
            text = text.lstrip(SPACE)
            self._skips_space = not text
        while True:
            before, found, rest = text.partition(CLOSING if self._in_call else OPENING)
            if not found:
                break
            if self._in_call:
                parsed.calls.append(ToolCall("", self._read_call(before)))
                rest = rest.lstrip(SPACE)
                self._skips_space = self._patient and not rest
            else:
                parsed.content += before.rstrip(SPACE)
            text, self._in_call = rest, not self._in_call
        if self._in_call:
            self._held = text
            return parsed
        shown, self._held = _without_beginning(text, OPENING, done)
        parsed.content += shown
        return parsed


def _without_beginning(text: str, tag: str, done: bool) -> tuple[str, str]:
    """Split into (text to show, held text): trailing white space and a possible beginning of the tag are held back.

    done: no text follows, so only white space is held back.
    """
    shown = split_trailing_space(text if done else text[: len(text) - overlap(text, tag)])[0]
    return shown, text[len(shown) :]


class Qwen3CoderParser:
    """Parses calls written as `<function=name><parameter=key>value</parameter>...</function>`."""

    knows_thinking, knows_tools = False, True

    def __init__(self, tools: list[Tool], last_message: Message | None):
        self.tools = tools
        self._calls = TaggedCalls(self._read, patient=False)

    def add(self, text: str, done: bool = False) -> Parsed:
        return self._calls.add(text, done)

    def _read(self, text: str) -> ToolCallFunction:
        function = _tag(text, "function", 0)
        if function is None:
            raise ParseError("EOF")
        name, body, _ = function
        properties = (
            next((tool.function.parameters.properties for tool in self.tools if tool.function.name == name), None) or {}
        )
        arguments, at = {}, 0
        while (parameter := _tag(body, "parameter", at)) is not None:
            key, value, at = parameter
            arguments[key] = typed(value.removeprefix("\n").removesuffix("\n"), types_of(properties.get(key)))
        return ToolCallFunction(0, name, arguments)


def _tag(text: str, tag: str, at: int) -> tuple[str, str, int] | None:
    """Find the next `<tag=name>body</tag>` at or after `at`. Returns (name, body, end)."""
    opening = re.compile(rf"<{tag}=([^>]+)>").search(text, at)
    if opening is None:
        return None
    end = text.find(f"</{tag}>", opening.end())
    if end < 0:
        raise ParseError(f"XML syntax error on line {text.count(chr(10)) + 1}: unexpected EOF")
    return opening[1], text[opening.end() : end], end + len(f"</{tag}>")


def types_of(prop: ToolProperty | None) -> list[str]:
    """The names of the types that a property allows."""
    if prop is None:
        return []
    if prop.any_of:
        return [name for choice in prop.any_of for name in choice.type or []]
    return prop.type or []


def typed(text: str, types: list[str]) -> object:
    """Convert a parameter's text to the most specific of its types that fits; otherwise return the text."""
    if text.lower() == "null":
        return None
    if "boolean" in types:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        if types == ["boolean"]:
            return False
    if "integer" in types and re.fullmatch(r"[+-]?[0-9]+", text) and -1 << 63 <= int(text) < 1 << 63:
        return int(text)
    if "number" in types and re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        number = float(text)
        if abs(number) < float("inf"):
            return int(number) if number.is_integer() and abs(number) < 1 << 63 else number
    for name, kind in (("array", list), ("object", dict)):
        if name in types:
            try:
                value = to_plain(parse_all(text.encode("utf-8", "surrogatepass")))
            except JSONSyntaxError:
                continue
            if isinstance(value, kind):
                return value
    return text


class Qwen3VLParser:
    """Parses calls written as JSON.

    thinks: the output begins inside the thinking, without an opening tag, unless it continues an answer.
    """

    knows_tools = True

    def __init__(self, tools: list[Tool], last_message: Message | None, *, thinks: bool):
        self.tools = tools
        self.knows_thinking = thinks
        answer_begun = last_message is not None and last_message.role == "assistant" and bool(last_message.content)
        self._thinking = thinks and not answer_begun
        self._held = ""
        self._calls = TaggedCalls(_read_json, patient=True)

    def add(self, text: str, done: bool = False) -> Parsed:
        thoughts = ""
        if self._thinking:
            text, self._held = self._held + text, ""
            thoughts, found, rest = text.partition("</think>")
            if not found:
                thoughts, self._held = _without_beginning(text, "</think>", done)
                return Parsed(thinking=thoughts)
            thoughts, text = thoughts.rstrip(SPACE), rest
            self._thinking = False
            self._calls.skip_space()
        parsed = self._calls.add(text, done)
        parsed.thinking = thoughts
        return parsed


def _read_json(text: str) -> ToolCallFunction:
    """Read a call of the form `{"name": ..., "arguments": {...}}`."""
    try:
        value = to_plain(parse_all(text.encode("utf-8", "surrogatepass")))
    except JSONSyntaxError as error:
        raise ParseError(str(error)) from None
    name, arguments = (value.get("name"), value.get("arguments")) if isinstance(value, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ParseError(f"a tool call needs a name and an object of arguments, not {text.strip()[:200]}")
    return ToolCallFunction(0, name, arguments)

"""Finds JSON tool calls in a model's output by the tag that the template puts before them.

After the tag a call may take many forms: `{"name": ..., "arguments": ...}`, `{"get_weather": {...}}`, a name next to an
object. The first tool name in the text is called with the first object in braces that holds arguments. Follows Ollama
0.12.11 as recorded.
"""

import bisect
import re

from ..go.decode import JSONSyntaxError, parse_all
from ..go.kinds import to_plain
from ..go.text import SPACE
from ..wire.conversation import Tool, ToolCall, ToolCallFunction
from .parsed import Parsed, overlap

_CLOSINGS = {"{": "}", "[": "]"}
_MARKS = re.compile(r'[{}"\\]')


class ToolsParser:
    """Parses tool calls after `tag`.

    name_key, arguments_key: their keys in an object.
    A bare `{` or `[` counts as a tag only at the start of the answer; text that turns out not to be a call is returned
    as content.
    """

    def __init__(self, tag: str, tools: list[Tool], name_key: str = "name", arguments_key: str = "arguments"):
        self.tag = tag
        self._keys = name_key, arguments_key
        self.names = [tool.function.name for tool in tools]
        self.found_tag = self.ended = False
        self.num_calls = 0
        self._held = ""
        self._in_order = sorted(self.names)
        self._longest = max(map(len, self.names), default=0)
        self._objects = ObjectFinder()
        self._brackets = re.compile(f"[{re.escape(tag + _CLOSINGS[tag])}]") if tag in _CLOSINGS else None
        self._counted = 0  # held characters whose brackets are counted
        self._depth = 0  # brackets open there

    def add(self, text: str, done: bool = False) -> Parsed:
        parsed = self._add(text)
        if done and not self.ended:
            parsed.content += self.rest()
            self.ended = True
        return parsed

    def rest(self) -> str:
        """Held text that is not a call. After a tag that is a word, it is dropped."""
        return self._held if self.num_calls == 0 and self.tag in _CLOSINGS else ""

    def _add(self, text: str) -> Parsed:
        if self.ended:
            return Parsed(text)
        self._held += text
        content = ""
        if not self.found_tag:
            content = self._before_tag()
            if self.tag in _CLOSINGS and content.strip(SPACE):
                self.ended = True
                return Parsed(content + self._held)
            if not self.found_tag:
                return Parsed(content)
        calls = []
        while (call := self._next_call()) is not None:
            calls.append(call)
        if self._is_closed():
            self.ended = True
            content, self._held = self._held, ""
        return Parsed(content, calls=calls)

    def _before_tag(self) -> str:
        """Return the text before the tag, or before a possible beginning of it, and hold the rest."""
        at = self._held.find(self.tag)
        self.found_tag = at >= 0
        if not self.found_tag:
            at = len(self._held) - overlap(self._held, self.tag)
        content, self._held = self._held[:at], self._held[at:]
        return content

    def _next_call(self) -> ToolCall | None:
        name, name_end = self._first_name()
        if name is None:
            return None
        data, object_end = self._objects.first(self._held)
        arguments = None if data is None else _arguments(data, name, *self._keys)
        if arguments is None:
            return None
        call = ToolCall("", ToolCallFunction(self.num_calls, name, arguments))
        self.num_calls += 1
        self._held = self._held[max(name_end, object_end) :]
        self._objects = ObjectFinder()
        self._counted = self._depth = 0
        return call

    def _first_name(self) -> tuple[str | None, int]:
        """Find the first tool name, the longest of those that begin there. Returns (name, end).

        Returns (None, -1) while the text may end in the middle of a name.
        """
        tail = self._held[-self._longest :]
        if any(self._begins_a_name(tail[start:]) for start in range(len(tail))):
            return None, -1
        best = None
        for name in self.names:
            at = self._held.find(name)
            if at >= 0 and (best is None or (at, -len(name)) < best[:2]):
                best = at, -len(name), name
        return (None, -1) if best is None else (best[2], best[0] + len(best[2]))

    def _begins_a_name(self, text: str) -> bool:
        """Whether a longer name begins with `text`: if any does, the next one in sorted order does."""
        at = bisect.bisect_right(self._in_order, text)
        return at < len(self._in_order) and self._in_order[at].startswith(text)

    def _is_closed(self) -> bool:
        """Whether the brace or bracket that is the tag is closed. Looks at each character once."""
        if self._brackets is None:
            return False
        for mark in self._brackets.finditer(self._held, self._counted):
            self._counted = mark.end()
            self._depth += 1 if mark[0] == self.tag else -1
            if self._depth == 0 and mark[0] != self.tag:
                return True
        return False


class ObjectFinder:
    """Finds the first JSON object in a growing text. Looks at each character once."""

    def __init__(self):
        self.at = 0
        self.depth = 0
        self.start = -1
        self.quoted = False
        self.result: tuple[dict | None, int] = (None, 0)

    def first(self, text: str) -> tuple[dict | None, int]:
        """Return (object, index of its last brace), or (None, 0). Braces in quotes do not count."""
        while self.result[0] is None:
            mark = _MARKS.search(text, self.at)
            if mark is None:
                self.at = len(text)
                break
            self.at = mark.end()
            if mark[0] == "\\":
                if self.at == len(text):
                    self.at -= 1  # the escaped character has not arrived yet
                    break
                self.at += 1
            elif mark[0] == '"':
                self.quoted = not self.quoted
            elif not self.quoted:
                self._brace(text, mark[0], mark.start())
        return self.result

    def _brace(self, text: str, brace: str, at: int) -> None:
        if brace == "{":
            self.start = at if self.depth == 0 else self.start
            self.depth += 1
            return
        self.depth -= 1
        if self.depth == 0 and self.start >= 0:
            data = json_object(text[self.start : at + 1])
            self.start, self.result = -1, (data, at if data is not None else 0)
        self.depth = max(self.depth, 0)


def json_object(text: str) -> dict | None:
    """Parse a JSON object; None if the text is anything else."""
    try:
        value = to_plain(parse_all(text.encode("utf-8", "surrogatepass")))
    except JSONSyntaxError:
        return None
    return value if isinstance(value, dict) else None


def _arguments(data: dict, tool_name: str, name_key: str, arguments_key: str) -> dict | None:
    """The arguments in an object: its `arguments` or `parameters` if it has a name, the value under the tool's name,
    or the object itself.
    """
    found, arguments = _search(data, tool_name, name_key, arguments_key)
    return arguments if found else data


def _search(data: dict, tool_name: str, name_key: str, arguments_key: str) -> tuple[bool, dict | None]:
    """Return (found, arguments): whether this object or one inside says what the arguments are."""
    if name_key in data:
        values = (data.get(key) for key in (arguments_key, "arguments", "parameters"))
        return True, next((found for found in map(_as_arguments, values) if found is not None), None)
    under_name = _as_arguments(data.get(tool_name))
    if under_name is not None:
        return True, under_name
    for value in data.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                found, arguments = _search(item, tool_name, name_key, arguments_key)
                if found:
                    return True, arguments
    return False, None


def _as_arguments(value: object) -> dict | None:
    """An object, or the object that a string holds; otherwise None."""
    return value if isinstance(value, dict) else json_object(value) if isinstance(value, str) else None

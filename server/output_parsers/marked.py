"""Parses tool calls by the marks that a model's Jinja template writes around names and arguments (`CallFormat`).

Text around the calls is content, without the white space next to a call. Text that begins like a call but cannot be
read is content, too.
"""

import re

import regex

from ..go.text import SPACE
from ..prompts.call_format import CallFormat, CallShape
from ..wire.conversation import Tool, ToolCall, ToolCallFunction
from .parsed import Parsed, overlap, split_trailing_space
from .python_calls import read_calls
from .tagged import typed, types_of
from .tools import ObjectFinder, ToolsParser

_MAX_HEADER = 4096  # characters of marks and name before the arguments; longer text is not a call
_NAME = r"""[^\s<>(){}\[\]"',]+"""
_NAME_END = r"""(?=[\s<>(){}\[\]"',])"""


def _pattern(mark: str) -> str:
    """A regular expression for a mark, with any amount of white space where it has some."""
    return r"\s*".join(map(re.escape, mark.split()))


class MarkedCallsParser:
    """Parses calls of any shape but JSON. prompt: the text before the answer, which may end with a call's opening."""

    def __init__(self, calls: CallFormat, tools: list[Tool], prompt: str = ""):
        self._format = calls
        self._tools = {tool.function.name: tool for tool in tools}
        self._triggers = list(dict.fromkeys(mark.split()[0] for mark in (calls.tag, calls.opening)))
        self._header, self._content_header = _headers(calls)
        begins_inside = bool(calls.content_opening) and prompt.rstrip().endswith(calls.opening)
        self._held = calls.opening if begins_inside else ""
        self._in_call = begins_inside
        self._num_calls = 0
        self._droppable: list[str] = []  # marks that may follow a call
        self._drops_space = False
        self._name: str | None = None  # of the call whose arguments are held
        self._header_text = ""  # the text before them
        self._space = ""  # white space before the call
        self._objects = ObjectFinder()
        self._searched = 0  # held characters without the closing mark

    def add(self, text: str, done: bool = False) -> Parsed:
        parsed = Parsed()
        self._held += text
        while self._in_call_step(parsed, done) if self._in_call else self._content_step(parsed, done):
            pass
        if done:
            parsed.content += self._space + self._header_text + self._held
            self._space = self._header_text = self._held = ""
        return parsed

    def _content_step(self, parsed: Parsed, done: bool) -> bool:
        """Move content up to the next call. Returns whether one begins."""
        if not self._drop(done):
            return False
        if self._format.tag == "[" and self._held.strip(SPACE):  # a bracket begins a call only at the start
            self._triggers = self._triggers if self._held.lstrip(SPACE).startswith("[") else []
        at = min((at for at in map(self._held.find, self._triggers) if at >= 0), default=-1)
        if at >= 0:
            content, self._space = split_trailing_space(self._held[:at])
            parsed.content += content
            self._held = self._held[at:]
            self._in_call = True
            return True
        kept = 0 if done else max((overlap(self._held, trigger) for trigger in self._triggers), default=0)
        shown = self._held[: len(self._held) - kept]
        if self._triggers and not done:
            shown = split_trailing_space(shown)[0]
        parsed.content += shown
        self._held = self._held[len(shown) :]
        return False

    def _drop(self, done: bool) -> bool:
        """Drop white space and marks after a call. Returns False if more text is needed."""
        while self._drops_space:
            self._held = self._held.lstrip(SPACE)
            if not self._held:
                return False
            mark = next((mark for mark in self._droppable if self._held.startswith(mark)), "")
            if not mark and not done and any(mark.startswith(self._held) for mark in self._droppable):
                return False
            self._held = self._held[len(mark) :]
            self._drops_space = bool(mark)
        return True

    def _in_call_step(self, parsed: Parsed, done: bool) -> bool:
        """Read the call at the beginning of the held text. Returns False if more text is needed."""
        if self._format.shape is CallShape.PYTHON:
            return self._read_python(parsed, done)
        if self._name is None:
            return self._read_header(parsed)
        if self._format.shape is CallShape.ELEMENTS:
            return self._read_elements(parsed, done)
        arguments, brace_at = self._objects.first(self._held)
        if arguments is None:
            return False
        self._end_call(parsed, [(self._name, arguments)], brace_at + 1)
        return True

    def _read_header(self, parsed: Parsed) -> bool:
        """Read the text up to the arguments."""
        if self._content_header is not None:
            content = self._content_header.match(self._held, partial=True)
            if content is not None:
                if content.partial:
                    return False
                self._held = self._held[content.end() :]
                self._in_call = False
                return True
        header = self._header.match(self._held, partial=True)
        if header is None or header.partial and len(self._held) > _MAX_HEADER:
            return self._give_up(parsed)
        if header.partial:
            return False
        self._name = self._tool_name(header["name"])
        self._header_text = self._held[: header.end()]
        self._held = self._held[header.end() :]
        self._objects = ObjectFinder()
        self._searched = 0
        return True

    def _tool_name(self, text: str) -> str:
        """The name of a tool; some models number their calls (`name:0`)."""
        return text if text in self._tools else re.sub(r":\d+$", "", text)

    def _read_elements(self, parsed: Parsed, done: bool) -> bool:
        assert self._name is not None
        at = self._find_closing()
        if at < 0 and not done:
            return False
        end = len(self._held) if at < 0 else at
        arguments = self._elements(self._held[:end])
        if arguments is None or at < 0 and not arguments:
            return self._give_up(parsed)
        self._end_call(parsed, [(self._name, arguments)], end + (len(self._last_closing) if at >= 0 else 0))
        return True

    def _elements(self, text: str) -> dict[str, object] | None:
        """The arguments in the elements of a call; None if one is not complete."""
        calls, arguments = self._format, {}
        tool = self._tools.get(self._name or "")
        properties = (tool.function.parameters.properties if tool else None) or {}
        middle = re.compile(r"\s*" + _pattern(calls.after_key))
        at = text.find(calls.key_opening)
        while at >= 0:
            key_at = at + len(calls.key_opening)
            key_end = text.find(calls.after_key.split()[0], key_at)
            value = middle.match(text, key_end) if key_end >= 0 else None
            end = text.find(calls.value_closing, value.end()) if value else -1
            if value is None or end < 0:
                return None
            key = text[key_at:key_end].strip()
            content = text[value.end() : end].removeprefix("\n").removesuffix("\n")
            arguments[key] = typed(content, types_of(properties.get(key)))
            at = text.find(calls.key_opening, end)
        return arguments

    def _read_python(self, parsed: Parsed, done: bool) -> bool:
        at = self._find_closing() if self._format.closing else -1
        if at < 0 and not done:
            return not self._may_be_python() and self._give_up(parsed)
        end = len(self._held) if at < 0 else at
        opening = "" if self._format.tag == "[" else self._format.tag
        text = self._held[len(opening) : end]
        calls = read_calls(text) or self._json_calls(text)
        if not calls:
            return self._give_up(parsed)
        self._end_call(parsed, calls, end + (len(self._last_closing) if at >= 0 else 0))
        return True

    def _json_calls(self, text: str) -> list[tuple[str, dict]]:
        """Calls in JSON, which some templates show to models that write Python."""
        parser = ToolsParser("", list(self._tools.values()))
        return [(call.function.name, call.function.arguments or {}) for call in parser.add(text).calls]

    def _may_be_python(self) -> bool:
        """Whether a bare bracket may begin a call of a tool; after a tag, anything may."""
        text = self._held.removeprefix("[").lstrip(SPACE)
        return self._format.tag != "[" or any(
            text.startswith(f"{name}(") or f"{name}(".startswith(text) for name in self._tools
        )

    @property
    def _last_closing(self) -> str:
        """The part of the closing mark that ends a call: models differ in the white space before it."""
        return self._format.closing.split()[-1] if self._format.closing else ""

    def _find_closing(self) -> int:
        """Index of the closing mark in the held text, or -1. Looks at each character once."""
        if not self._last_closing:
            return -1
        at = self._held.find(self._last_closing, self._searched)
        self._searched = max(0, len(self._held) - len(self._last_closing)) if at < 0 else at
        return at

    def _end_call(self, parsed: Parsed, calls: list[tuple[str, dict]], end: int) -> None:
        for name, arguments in calls:
            parsed.calls.append(ToolCall("", ToolCallFunction(self._num_calls, name, arguments)))
            self._num_calls += 1
        self._held = self._held[end:]
        self._space = self._header_text = ""
        self._name = None
        self._searched = 0
        self._in_call = False
        self._drops_space = True
        self._droppable = [mark for mark in (self._format.closing, self._format.section_closing) if mark]

    def _give_up(self, parsed: Parsed) -> bool:
        """Treat the beginning of the held text as content, because it is not a call."""
        text = self._header_text + self._held
        size = next(len(trigger) for trigger in self._triggers if text.startswith(trigger))
        parsed.content += self._space + text[:size]
        self._triggers = [trigger for trigger in self._triggers if trigger != "["]
        self._held = text[size:]
        self._space = self._header_text = ""
        self._name = None
        self._searched = 0
        self._in_call = False
        return True


def _headers(calls: CallFormat) -> tuple["regex.Pattern[str]", "regex.Pattern[str] | None"]:
    """Return patterns of the text before arguments, and of the text before content that follows an opening mark."""
    section = "" if calls.opening.startswith(calls.tag) else rf"(?:{_pattern(calls.tag)}\s*)?"
    opening = rf"{section}{_pattern(calls.opening)}\s*"
    after_name = rf"\s*{_pattern(calls.after_name)}"
    if calls.shape is CallShape.NAMED_JSON:
        after_name = rf"(?:{after_name})?\s*(?=\{{)"
    header = regex.compile(rf"{opening}(?P<name>{_NAME}){_NAME_END}{after_name}")
    if not calls.content_opening:
        return header, None
    return header, regex.compile(rf"{opening}{_pattern(calls.content_opening)}[ \t]*\n")

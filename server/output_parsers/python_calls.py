"""Reads tool calls written in Python, such as `[f(a=1, b="x"), g()]`. Nothing is evaluated."""

import json
import re
from collections.abc import Callable
from typing import TypeVar

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)"""
    r"""|(?P<name>[^\W\d][\w.-]*)|(?P<mark>[\[\](){},:=]))""",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "\n": "", "\\": "\\", "'": "'", '"': '"'}
_CONSTANTS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_MAX_DEPTH = 50  # of lists and objects
_MAX_DIGITS = 1000
T = TypeVar("T")


class _Unreadable(Exception):
    pass


def read_calls(text: str) -> list[tuple[str, dict[str, object]]] | None:
    """Return [(name, arguments)] of a list of calls or of a single one; None if the text is anything else."""
    try:
        return _Reader(text).calls()
    except (_Unreadable, ValueError):
        return None


class _Reader:
    def __init__(self, text: str):
        self._text = text
        self._at = 0

    def calls(self) -> list[tuple[str, dict[str, object]]]:
        is_list = self._takes("[")
        found = [self._call()]
        while self._takes(","):
            found.append(self._call())
        if is_list:
            self._expect("]")
        if self._text[self._at :].strip():
            raise _Unreadable
        return found

    def _call(self) -> tuple[str, dict[str, object]]:
        name = self._next("name")
        self._expect("(")
        arguments: dict[str, object] = {}
        while not self._takes(")"):
            if arguments:
                self._expect(",")
            key = self._next("name")
            self._expect("=")
            arguments[key] = self._value(0)
        return name, arguments

    def _value(self, depth: int) -> object:
        if depth > _MAX_DEPTH:
            raise _Unreadable
        if self._takes("["):
            return self._items("]", lambda: self._value(depth + 1))
        if self._takes("{"):
            return dict(self._items("}", lambda: self._member(depth + 1)))
        match = self._match()
        self._at = match.end()
        if match["string"] is not None:
            return _unquoted(match["string"])
        if match["number"] is not None and len(match["number"]) <= _MAX_DIGITS:
            text = match["number"]
            return json.loads(text + "0" if text.endswith(".") else text)
        if match["name"] in _CONSTANTS:
            return _CONSTANTS[match["name"]]
        raise _Unreadable

    def _member(self, depth: int) -> tuple[str, object]:
        key = self._value(depth)
        self._expect(":")
        return str(key), self._value(depth)

    def _items(self, closing: str, read: Callable[[], T]) -> list[T]:
        items: list[T] = []
        while not self._takes(closing):
            if items:
                self._expect(",")
                if self._takes(closing):
                    break
            items.append(read())
        return items

    def _match(self) -> re.Match[str]:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise _Unreadable
        return match

    def _next(self, kind: str) -> str:
        match = self._match()
        if match[kind] is None:
            raise _Unreadable
        self._at = match.end()
        return match[kind]

    def _takes(self, mark: str) -> bool:
        match = _TOKEN.match(self._text, self._at)
        if match is None or match["mark"] != mark:
            return False
        self._at = match.end()
        return True

    def _expect(self, mark: str) -> None:
        if not self._takes(mark):
            raise _Unreadable


def _unquoted(text: str) -> str:
    """The value of a string. Unknown escapes stay as they are, as in Python; surrogates are paired, as in JSON."""

    def unescape(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        if code is None:
            return _ESCAPES.get(match[4], match[0])
        return chr(int(code, 16)) if int(code, 16) <= 0x10FFFF else match[0]

    return _ESCAPE.sub(unescape, text[1:-1]).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

"""Reads the first JSON value of a text as Go's json.Decoder does; syntax errors have Go's words.

In: the bytes of a request body. Out: a tree of str, `Number`, bool, None, list and `Object` (members in the order of
the text, equal keys kept: binding.py decides which one counts). Text after the first value is ignored.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeAlias, TypeGuard

from vkbackend import cancellation

from ..errors import ApiError
from .text import quote

# Strings, numbers, literals, arrays and objects of one text: seconds of work and some hundred megabytes.
MAX_VALUES = 1_000_000
VALUES_PER_CHECK = 4096  # values between two checks for cancellation
MAX_DEPTH = 300  # Go allows 10000; more than 300 levels would exhaust Python's stack
ITEMS_PER_PIECE = 4096  # values that are freed in one go
PIECE = 1 << 20  # most characters for one regular expression, as other threads run only between matches
INVALID_PIECE = 1 << 16  # the same for replacing invalid bytes, which is slower
_SPACE = re.compile(rf"[ \t\r\n]{{0,{PIECE}}}")
_PLAIN = re.compile(rf'[^"\\\x00-\x1f]{{0,{PIECE}}}')
_HEX_PAIR = "[0-9a-fA-F]{2}"
_SURROGATES = rf"u[dD][89abAB]{_HEX_PAIR}\\u[dD][c-fC-F]{_HEX_PAIR}"
# Escapes but those of lone surrogates, and the plain text between them: what json.loads reads as Go does.
_ESCAPE = rf'\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F]){_HEX_PAIR}{_HEX_PAIR}|{_SURROGATES})'
_ESCAPES = re.compile(rf'(?:{_ESCAPE}|[^"\\\x00-\x1f]{{1,64}}+){{1,16384}}+')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SIMPLE_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_INVALID = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, decoded with surrogateescape
_LITERALS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
_HEX = "0123456789abcdefABCDEF"


class JSONSyntaxError(Exception):
    """Its text is Go's: `unexpected EOF`, `invalid character 'x' after object key`, or `EOF` for an empty body."""

    @property
    def is_empty_body(self) -> bool:
        """Whether the body has no value at all."""
        return str(self) == "EOF"


class Number(str):
    """A number as written in the text."""

    __slots__ = ()  # without a dictionary of its own the garbage collector has no need to look at it


class Member:
    """One `"name": value` of an object; the value's own text is text[start:end]."""

    __slots__ = ("name", "value", "_text", "_start", "_end")

    def __init__(self, name: str, value: "JSONValue", text: str, start: int, end: int):
        self.name = name
        self.value = value
        self._text = text
        self._start = start
        self._end = end

    @property
    def raw(self) -> str:
        """The value's own text, sliced on demand; bytes that are not UTF-8 are surrogates (surrogateescape)."""
        return self._text[self._start : self._end]


class Object(list[Member]):
    """The `Member`s of an object in the order of the text."""


JSONValue: TypeAlias = "str | bool | None | list[JSONValue] | Object"  # a str may be a Number


def is_string(value: JSONValue) -> TypeGuard[str]:
    """Whether `value` is a JSON string, not a number."""
    return isinstance(value, str) and not isinstance(value, Number)


def is_array(value: JSONValue) -> TypeGuard[list[JSONValue]]:
    """Whether `value` is a JSON array, not an object."""
    return isinstance(value, list) and not isinstance(value, Object)


@contextmanager
def parsed(body: bytes) -> Iterator[JSONValue]:
    """The first value of `body`, which is freed in pieces when the block ends. Raises JSONSyntaxError.

    A tree that is dropped as a whole is freed in one go, which holds up all threads: a tenth of a second for a
    million values.
    """
    parser = _Parser(body)
    try:
        yield parser.first()
    finally:
        for items in parser.arrays:
            while items:
                del items[-ITEMS_PER_PIECE:]
        while parser.arrays:
            del parser.arrays[-ITEMS_PER_PIECE:]


def parse_all(text: bytes) -> JSONValue:
    """The only value of `text`, as Go's json.Unmarshal reads it. Raises JSONSyntaxError."""
    parser = _Parser(text)
    try:
        value = parser.first()
    except JSONSyntaxError as error:
        if str(error) in ("EOF", "unexpected EOF"):
            raise JSONSyntaxError("unexpected end of JSON input") from None
        raise
    parser.skip_space()
    if parser.peek():
        parser.fail("after top-level value")
    return value


def _replace_invalid(text: str) -> str:
    pieces = (text[at : at + INVALID_PIECE] for at in range(0, len(text), INVALID_PIECE))
    return "".join(_INVALID.sub("\ufffd", piece) for piece in pieces)


class _Parser:
    """Reads values of a text, in which each byte that is not UTF-8 is a surrogate: errors and raw values show it."""

    def __init__(self, body: bytes):
        try:
            self.text = body.decode("utf-8")
            self.has_invalid_bytes = False
        except UnicodeDecodeError:
            self.text = body.decode("utf-8", "surrogateescape")
            self.has_invalid_bytes = True
        self.at = 0
        self.num_values = 0
        self.arrays: list[list] = []  # and objects

    def first(self) -> JSONValue:
        self.skip_space()
        if self.at == len(self.text):
            raise JSONSyntaxError("EOF")
        return self.value(0)

    def skip_space(self) -> None:
        if self.text[self.at : self.at + 1] > " ":  # most often there is none
            return
        while len(self.match(_SPACE)) == PIECE:
            pass

    def match(self, pattern: re.Pattern[str]) -> str:
        """Text that `pattern` matches here, which may be empty; moves behind it."""
        found = pattern.match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found[0]

    def fail(self, where: str) -> NoReturn:
        """Raise the error of an unexpected character, or of an unexpected end, at the current position."""
        if self.at >= len(self.text):
            raise JSONSyntaxError("unexpected EOF")
        # Go's scanner reads bytes and names the first one of a character beyond ASCII.
        byte = chr(self.text[self.at].encode("utf-8", "surrogateescape")[0])
        name = {"'": "'\\''", '"': "'\"'"}.get(byte) or "'" + quote(byte)[1:-1] + "'"
        raise JSONSyntaxError(f"invalid character {name} {where}")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def value(self, depth: int) -> JSONValue:
        if depth > MAX_DEPTH:
            raise JSONSyntaxError("exceeded max depth")
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise ApiError(413, f"the request's JSON holds more than {MAX_VALUES} values; send less at a time")
        if self.num_values % VALUES_PER_CHECK == 0:
            cancellation.check()
        character = self.peek()
        if character == '"':
            return self.string()
        if character == "{":
            return self.object(depth)
        if character == "[":
            return self.array(depth)
        if character in _LITERALS and character:
            return self.literal(*_LITERALS[character])
        if character == "-" or character.isdigit() and character.isascii():
            return self.number()
        self.fail("looking for beginning of value")

    def literal(self, word: str, value: bool | None) -> bool | None:
        for expected in word[1:]:
            self.at += 1
            if self.peek() != expected:
                self.fail(f"in literal {word} (expecting '{expected}')")
        self.at += 1
        return value

    def number(self) -> Number:
        token = self.match(_NUMBER)
        if not token:
            self.at += 1
            self.fail("in numeric literal")
        following = self.peek()
        if following == "." and "." not in token and "e" not in token.lower():
            self.at += 1
            self.fail("after decimal point in numeric literal")
        if following in ("e", "E") and "e" not in token.lower():
            self.at += 1
            if self.peek() in ("+", "-"):
                self.at += 1
            self.fail("in exponent of numeric literal")
        return Number(token)

    def string(self) -> str:
        self.at += 1
        parts, pieces = [], []
        while True:
            plain = self.match(_PLAIN)
            pieces.append(plain)
            if len(plain) == PIECE:
                continue
            character = self.peek()
            if character == '"':
                self.at += 1
                text = "".join([*parts, *pieces])
                return _replace_invalid(text) if self.has_invalid_bytes else text
            if character != "\\":
                self.fail("in string literal")
            if escaped := self.match(_ESCAPES):
                pieces.append(json.loads(f'"{escaped}"'))
            else:
                self.at += 1
                pieces.append(self.escape())
            if len(pieces) > ITEMS_PER_PIECE:  # a million pieces are not freed in one go
                parts.append("".join(pieces))
                pieces.clear()

    def escape(self) -> str:
        character = self.peek()
        if character in _SIMPLE_ESCAPES and character:
            self.at += 1
            return _SIMPLE_ESCAPES[character]
        if character != "u":
            self.fail("in string escape code")
        unit = self.hexadecimal()
        if 0xD800 <= unit < 0xDC00 and self.text.startswith("\\u", self.at):
            mark = self.at
            self.at += 1
            low = self.hexadecimal()
            if 0xDC00 <= low < 0xE000:
                return chr(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00))
            self.at = mark  # not a pair: the second escape is read on its own
        return "\ufffd" if 0xD800 <= unit < 0xE000 else chr(unit)

    def hexadecimal(self) -> int:
        start = self.at + 1
        for self.at in range(start, start + 4):
            if not self.peek() or self.peek() not in _HEX:
                self.fail("in \\u hexadecimal character escape")
        self.at = start + 4
        return int(self.text[start : start + 4], 16)

    def array(self, depth: int) -> list[JSONValue]:
        self.at += 1
        self.skip_space()
        items: list[JSONValue] = []
        self.arrays.append(items)
        if self.peek() == "]":
            self.at += 1
            return items
        while True:
            self.skip_space()
            items.append(self.value(depth + 1))
            self.skip_space()
            if self.peek() == "]":
                self.at += 1
                return items
            if self.peek() != ",":
                self.fail("after array element")
            self.at += 1

    def object(self, depth: int) -> Object:
        self.at += 1
        self.skip_space()
        members = Object()
        self.arrays.append(members)
        if self.peek() == "}":
            self.at += 1
            return members
        while True:
            self.skip_space()
            if self.peek() != '"':
                self.fail("looking for beginning of object key string")
            name = self.string()
            self.skip_space()
            if self.peek() != ":":
                self.fail("after object key")
            self.at += 1
            self.skip_space()
            start = self.at
            value = self.value(depth + 1)
            members.append(Member(name, value, self.text, start, self.at))
            self.skip_space()
            if self.peek() == "}":
                self.at += 1
                return members
            if self.peek() != ",":
                self.fail("after object key:value pair")
            self.at += 1

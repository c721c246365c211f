"""Reads the first JSON value of a text as Go's json.Decoder does; a syntax error has Go's words.

In: the bytes of a request body. Out: a tree of str, `Number`, bool, None, list and `Object` (pairs in the order of
the text, doubles kept: which one counts is the business of binding.py). What follows the first value is not looked
at.
"""

import re

from vkbackend import cancellation

from ..errors import ApiError
from .text import decode_utf8, quote

MAX_VALUES = (
    1_000_000  # in a text: strings, numbers, literals, arrays, objects; seconds of work, and some hundred megabytes
)
VALUES_PER_LOOK = 4096  # at whether anybody still waits
MAX_DEPTH = 300  # Go allows 10000; more than 300 levels serve nobody and would exhaust Python's stack
PIECE = 1 << 20  # characters that are looked at in one go, for other threads get their turn only in between
_SPACE = re.compile(rf"[ \t\r\n]{{0,{PIECE}}}")
_PLAIN = re.compile(rf'[^"\\\x00-\x1f]{{0,{PIECE}}}')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SIMPLE_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERALS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
_HEX = "0123456789abcdefABCDEF"


class JSONSyntaxError(Exception):
    """Its text is Go's: `unexpected EOF`, `invalid character 'x' after object key`, or `EOF` for a body without any
    value.
    """

    @property
    def is_empty_body(self) -> bool:
        return str(self) == "EOF"


class Number(str):
    """A number as it stands in the text."""


class Member:
    """One `"name": value` of an object; `raw` is the value's own text, text[start:end], which is made when it is
    asked for.
    """

    __slots__ = ("name", "value", "_text", "_start", "_end")

    def __init__(self, name, value, text, start, end):
        self.name, self.value, self._text, self._start, self._end = name, value, text, start, end

    @property
    def raw(self) -> str:
        return self._text[self._start : self._end]


class Object(list):
    """The `Member`s of an object in the order of the text."""


def parse(body: bytes):
    """-> the first value of `body`. Raises JSONSyntaxError."""
    return _Parser(decode_utf8(body)).first()


def parse_all(text: bytes):
    """-> the one value that `text` is, as Go's json.Unmarshal reads it. Raises JSONSyntaxError."""
    parser = _Parser(decode_utf8(text))
    try:
        value = parser.first()
    except JSONSyntaxError as error:
        raise (
            JSONSyntaxError("unexpected end of JSON input") if str(error) in ("EOF", "unexpected EOF") else error
        ) from None
    parser.skip_space()
    if parser.peek():
        parser.fail("after top-level value")
    return value


class _Parser:
    def __init__(self, text):
        self.text, self.at, self.num_values = text, 0, 0

    def first(self):
        self.skip_space()
        if self.at == len(self.text):
            raise JSONSyntaxError("EOF")
        return self.value(0)

    def skip_space(self):
        start = self.at
        self.at = _SPACE.match(self.text, start).end()
        while self.at - start == PIECE:
            start = self.at
            self.at = _SPACE.match(self.text, start).end()

    def fail(self, where: str):
        """At the present character: wrong there, or the text ends."""
        if self.at >= len(self.text):
            raise JSONSyntaxError("unexpected EOF")
        # Go's scanner sees bytes: of a character beyond ASCII it names the first one.
        byte = chr(self.text[self.at].encode("utf-8", "replace")[0])
        name = {"'": "'\\''", '"': "'\"'"}.get(byte) or "'" + quote(byte)[1:-1] + "'"
        raise JSONSyntaxError(f"invalid character {name} {where}")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def value(self, depth):
        if depth > MAX_DEPTH:
            raise JSONSyntaxError("exceeded max depth")
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise ApiError(413, f"the request's JSON holds more than {MAX_VALUES} values; send less at a time")
        if self.num_values % VALUES_PER_LOOK == 0:
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

    def literal(self, word, value):
        for expected in word[1:]:
            self.at += 1
            if self.peek() != expected:
                self.fail(f"in literal {word} (expecting '{expected}')")
        self.at += 1
        return value

    def number(self):
        match = _NUMBER.match(self.text, self.at)
        if match is None:
            self.at += 1
            self.fail("in numeric literal")
        self.at = match.end()
        token = match[0]
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

    def string(self):
        self.at += 1
        pieces = []
        while True:
            plain = _PLAIN.match(self.text, self.at)
            pieces.append(plain[0])
            self.at = plain.end()
            if len(plain[0]) == PIECE:
                continue
            character = self.peek()
            if character == '"':
                self.at += 1
                return "".join(pieces)
            if character != "\\":
                self.fail("in string literal")
            self.at += 1
            pieces.append(self.escape())

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
            self.at = mark  # the second escape stands for itself
        return "\ufffd" if 0xD800 <= unit < 0xE000 else chr(unit)

    def hexadecimal(self) -> int:
        start = self.at + 1
        for self.at in range(start, start + 4):
            if not self.peek() or self.peek() not in _HEX:
                self.fail("in \\u hexadecimal character escape")
        self.at = start + 4
        return int(self.text[start : start + 4], 16)

    def array(self, depth):
        self.at += 1
        self.skip_space()
        items = []
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

    def object(self, depth):
        self.at += 1
        self.skip_space()
        members = Object()
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

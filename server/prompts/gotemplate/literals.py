"""Evaluates Go literals: numbers, characters, strings and raw strings.

Strings hold bytes that are not UTF-8 as lone surrogates (`surrogateescape`), as everywhere in this package.
"""

import re

ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
_UNDERSCORED = re.compile(r"[+-]?(0[xXoObB]?_?)?[0-9a-fA-F]+(_[0-9a-fA-F]+)*\Z")


class LiteralError(Exception):
    """The text is not a valid literal. The message is Go's."""


def unquote(text: str) -> str:
    """Return the value of a quoted or raw string."""
    if text[0] == "`":
        return text[1:-1].replace("\r", "")
    return _unescape(text[1:-1], text[0])


def _unescape(body: str, mark: str) -> str:
    def replace(match: re.Match[str]) -> str:
        two, four, eight, octal, single = match.groups()
        if two or octal:
            byte = int(two, 16) if two else int(octal, 8)
            if byte > 255:
                raise LiteralError("invalid syntax")
            return bytes([byte]).decode("utf-8", "surrogateescape")
        if four or eight:
            code = int(four or eight, 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise LiteralError("invalid syntax")
            return chr(code)
        if single not in ESCAPES or (single in "'\"" and single != mark):
            raise LiteralError("invalid syntax")
        return ESCAPES[single]

    joined = _ESCAPE.sub(replace, body)
    # adjacent \x escapes may form one character
    return joined.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def parse_number(text: str) -> int | float | complex:
    """Return an int, float or complex, as Go types an untyped constant."""
    if text[0] == "'":
        try:
            char = _unescape(text[1:-1], "'")
        except LiteralError:
            char = ""
        if len(char) != 1:
            raise LiteralError(f"malformed character constant: {text}")
        return ord(char)
    if text.endswith("i"):
        try:
            return complex(text[:-1].replace("_", "") + "j")
        except ValueError:
            raise LiteralError(f"illegal number syntax: {_quoted(text)}") from None
    integer = _integer(text)
    if integer is not None:
        return integer
    number = _float(text)
    if number is None:
        raise LiteralError(f"illegal number syntax: {_quoted(text)}")
    if not any(char in text for char in ".eEpP"):
        raise LiteralError(f"integer overflow: {_quoted(text)}")
    return number


def _integer(text: str) -> int | None:
    if not _UNDERSCORED.match(text):
        return None
    digits = text.replace("_", "")
    unsigned = digits.lstrip("+-")
    if len(unsigned) > 1 and unsigned[0] == "0" and unsigned[1].isdecimal():  # 017 is octal in Go
        digits = digits.replace(unsigned, "0o" + unsigned[1:])
    try:
        value = int(digits, 0)
    except ValueError:
        return None
    return value if -(1 << 63) <= value < (1 << 63) else None


def _float(text: str) -> float | None:
    plain = text.replace("_", "")
    try:
        return float.fromhex(plain) if "x" in plain.lower() else float(plain)
    except (ValueError, OverflowError):
        return None


def _quoted(text: str) -> str:
    return '"' + text + '"'

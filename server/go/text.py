"""Text as Go's fmt and strconv write it: quoted strings (%q), values (%v, %#v).

In: Python values decoded from JSON. Out: text as in error messages and prompts of the original server.
"""

import codecs
import unicodedata
from typing import Any

import numpy as np

from .encode import Float32, mantissa, positional, shortest_digits

_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}

# Characters that Go's strings.TrimSpace removes.
SPACE = (
    "\t\n\v\f\r "
    "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)


# Characters that Unicode 15 added to 14, except format characters: Go 1.24 prints them, Python 3.11 knows version 14.
_UNICODE_15 = (
    "cf3 ece 10efd-10eff 1123f-11241 11b00-11b09 11f00-11f10 11f12-11f3a 11f3e-11f59 1342f 13440-13455 1b132 1b155 "
    "1d2c0-1d2d3 1df25-1df2a 1e030-1e06d 1e08f 1e4d0-1e4f9 1f6dc 1f774-1f776 1f77b-1f77f 1f7d9 1fa75-1fa77 1fa87-1fa88 "
    "1faad-1faaf 1fabb-1fabd 1fabf 1face-1facf 1fada-1fadb 1fae8 1faf7-1faf8 2b739 31350-323af"
)


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first, 16), int(last or first, 16) + 1)


_UNICODE_15_RANGES = tuple(map(_range, _UNICODE_15.split()))


def is_printable(character: str) -> bool:
    """strconv.IsPrint: letters, marks, numbers, punctuation and symbols of Unicode 15, and the ASCII space."""
    return character.isprintable() or any(ord(character) in part for part in _UNICODE_15_RANGES)


def is_text(character: str) -> bool:
    """Whether texts keep a character: printable, or not assigned in Python's tables (newer ones may print it)."""
    return character.isprintable() or unicodedata.category(character) == "Cn"


def quote(text: str) -> str:
    """Go string literal as strconv.Quote writes it: characters that are not printable become escapes.

    Invalid bytes, decoded with surrogateescape, become escapes of their values.
    """
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if is_printable(character):
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def value(item: Any) -> str:
    """`%v` of a value decoded from JSON: shortest numbers, bare strings, lists in brackets, sorted maps."""
    if item is None:
        return "<nil>"
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, float):
        return general_float(item)
    if isinstance(item, list):
        return "[" + " ".join(map(value, item)) + "]"
    if isinstance(item, dict):
        return "map[" + " ".join(f"{key}:{value(item[key])}" for key in sorted(item)) + "]"
    return str(item)


def sharp_value(item: Any) -> str:
    """`%#v` of a scalar decoded from JSON: like `%v`, but strings are quoted."""
    return quote(item) if isinstance(item, str) else value(item)


def general_float(number: float) -> str:
    """`%g` with the shortest digits that read back as the same number: 100000, 1e+06, 0.0001, 1e-05."""
    if number != number:
        return "NaN"
    if number in (float("inf"), float("-inf")):
        return "+Inf" if number > 0 else "-Inf"
    negative, digits, point = shortest_digits(number, np.float32 if isinstance(number, Float32) else np.float64)
    exponent = point - 1
    if exponent < -4 or exponent >= 6:  # as if the precision were 6
        text = f"{mantissa(digits)}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    else:
        text = positional(digits, point)
    return "-" + text if negative else text


def decode_utf8(data: bytes) -> str:
    """Decode as Go does: each byte that is not valid UTF-8 becomes one U+FFFD."""
    return data.decode("utf-8", "go-replace")


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("go-replace", _replace_each_byte)

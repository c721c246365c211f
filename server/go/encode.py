"""JSON text as Go's encoding/json writes it, and times as its time package does.

In: None, bool, int, float, str, bytes, list, dict (a Go map: keys sorted), `RawJSON`, `Float32`, or a dataclass
whose fields are declared with `binding.wire` (a Go struct: keys in the order of the fields, empty fields with
`omit_empty` left out). Out: text without spaces, with <, >, &, U+2028 and U+2029 escaped.
"""

import base64
import heapq
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from vkbackend.errors import VkbackendError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FloatType: TypeAlias = type[np.float32] | type[np.float64]
# Other threads run only between two calls of C functions, each of which is given this much at most:
PIECE = 64 << 10  # characters
STRINGS = 4096  # short texts or integers of an array
KEYS = 32_768  # keys to sort
_STRING_OR_SPACE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[ \t\r\n]+')
ZERO_TIME = "0001-01-01T00:00:00Z"
_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
# For a byte that was not UTF-8 (surrogateescape) or half of a surrogate pair, Go writes the escape of U+FFFD.
_SURROGATES = str.maketrans({code: "\\ufffd" for code in range(0xD800, 0xE000)})


class RawJSON(str):
    """JSON text that is written as it is, compacted (Go's json.RawMessage)."""


class UnsupportedValue(VkbackendError, ValueError):
    """A number that JSON cannot hold (NaN, infinities), in Go's words."""

    def __init__(self, number: float):
        name = "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"
        super().__init__(f"failed to encode response: json: unsupported value: {name}")


class Float32(float):
    """A number written with the shortest digits that single out a 32-bit float."""


def dumps(value: Any) -> str:
    """JSON text of `value`. Raises UnsupportedValue for NaN and infinities, TypeError for a type JSON cannot hold."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, RawJSON):
        return _escape(compact(value))
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return number_text(value, np.float32 if isinstance(value, Float32) else np.float64)
    if isinstance(value, (bytes, bytearray)):
        return '"' + base64.b64encode(value).decode() + '"'
    if isinstance(value, (list, tuple)):
        if all(type(item) is str for item in value):  # a vocabulary: many at a time, which is much faster
            return "[" + ",".join(_strings(value[at : at + STRINGS]) for at in range(0, len(value), STRINGS)) + "]"
        if all(type(item) is int for item in value):  # a context, likewise
            return "[" + ",".join(_integers(value[at : at + STRINGS]) for at in range(0, len(value), STRINGS)) + "]"
        return "[" + ",".join(map(dumps, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{dumps(str(key))}:{dumps(value[key])}" for key in sorted_keys(value)) + "}"
    if is_dataclass(value) and not isinstance(value, type):
        return "{" + ",".join(_struct_pairs(value)) + "}"
    if isinstance(value, np.ndarray):
        return _array(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _string(text: str) -> str:
    if len(text) <= PIECE:
        return _escape(json.dumps(text, ensure_ascii=False))
    pieces = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
    return '"' + "".join(_escape(json.dumps(piece, ensure_ascii=False))[1:-1] for piece in pieces) + '"'


def _strings(texts: Sequence[str]) -> str:
    """The texts without the brackets of an array."""
    if sum(map(len, texts)) > PIECE:
        return ",".join(map(_string, texts))
    return _escape(json.dumps(texts, ensure_ascii=False, separators=(",", ":")))[1:-1]


def _integers(numbers: Sequence[int]) -> str:
    """The numbers without the brackets of an array."""
    return str(list(numbers))[1:-1].replace(" ", "")


def sorted_keys(values: dict) -> Iterable:
    """The keys in order. Those of a large dict are sorted in parts."""
    keys = list(values)
    return heapq.merge(*(sorted(keys[at : at + KEYS]) for at in range(0, len(keys), KEYS)))


def _struct_pairs(value: "DataclassInstance") -> Iterator[str]:
    for field in fields(value):
        kind = field.metadata["kind"]
        item = getattr(value, field.name)
        if not (field.metadata["omit_empty"] and kind.is_empty(item)):
            yield f'"{field.metadata["name"]}":{kind.encode(item)}'


def _array(values: np.ndarray) -> str:
    if values.dtype == np.float32:
        return "[" + ",".join(number_text(item, np.float32) for item in values.tolist()) + "]"
    return dumps(values.tolist())


def _escape(text: str) -> str:
    """Escape JSON text; the escaped characters can only occur inside its strings."""
    if not text.isascii():
        text = text.translate(_SURROGATES)
    return text.translate(_HTML)


def compact(raw: str) -> str:
    """JSON text as Go writes a json.RawMessage: without white space outside strings, and with HTML escapes.

    Numbers and escapes stay as written.
    """
    without_space = _STRING_OR_SPACE.sub(lambda match: match[0] if match[0][0] == '"' else "", raw)
    return without_space.translate(_HTML)


def shortest_digits(number: float, float_type: FloatType = np.float64) -> tuple[bool, str, int]:
    """(negative, digits, point) of the value 0.DIGITS * 10^point.

    The digits are the fewest that read back as the same `float_type`.
    """
    if number == 0:
        return math.copysign(1, number) < 0, "0", 1
    text, _, exponent = np.format_float_scientific(float_type(number), unique=True, trim="-").partition("e")
    return text.startswith("-"), text.lstrip("-").replace(".", ""), int(exponent) + 1


def number_text(number: float, float_type: FloatType = np.float64) -> str:
    """A float as encoding/json writes it: with an exponent below 1e-6 and from 1e21 on (floatEncoder)."""
    if not math.isfinite(number):
        raise UnsupportedValue(number)
    if number and abs(number) < 1 << 24 and number == int(number):
        return str(int(number))
    negative, digits, point = shortest_digits(number, float_type)
    exponent = point - 1
    if exponent < -6 or exponent >= 21:
        text = mantissa(digits) + f"e{exponent:+d}"
    else:
        text = positional(digits, point)
    return "-" + text if negative else text


def mantissa(digits: str) -> str:
    """Digits with the point after the first one: `1.25`, `3`."""
    return f"{digits[0]}.{digits[1:]}".rstrip(".")


def positional(digits: str, point: int) -> str:
    """0.DIGITS * 10^point without an exponent."""
    if point <= 0:
        return "0." + "0" * -point + digits
    if point >= len(digits):
        return digits + "0" * (point - len(digits))
    return digits[:point] + "." + digits[point:]


def rfc3339_nano(nanoseconds: int, zone: tzinfo | None = None) -> str:
    """Nanoseconds since 1970 as `2024-02-03T04:05:06.789012-08:00`, without trailing zeros of the fraction.

    `zone` None is the local time zone.
    """
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).astimezone(zone)
    text = f"{moment.year:04d}" + moment.strftime("-%m-%dT%H:%M:%S")
    if fraction:
        text += f".{fraction:09d}".rstrip("0")
    offset = moment.strftime("%z")
    return text + ("Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:5]}")


def now() -> str:
    """Current time in UTC, as in `created_at` of every answer."""
    return rfc3339_nano(time.time_ns(), UTC)

"""How single Go types are read from JSON and written: strings, numbers, times, `any`, and api types with own rules.

A value of the wrong type is recorded in `State` and reading continues with the current value; the first such error is
raised at the end (`binding.bind`). Types with a decoder of their own raise BindError at once, as in the original.
Kinds that hold other kinds are in binding.py.
"""

import binascii
import json
import re
from typing import Any, Generic, TypeVar

from vkbackend import cancellation

from . import durations
from . import encode as go_json
from .decode import JSONValue, Number, Object, is_array, is_string, parsed
from .human import shortened
from .text import quote

MAX_INT64 = (1 << 63) - 1
LOADS_PIECE = 256 << 10  # characters of JSON read in one go: some ten milliseconds
BASE64_PIECE = 256 << 10  # characters decoded in one go, as other threads run only in between; a multiple of 4
T = TypeVar("T")
C = TypeVar("C")


class BindError(Exception):
    """The body is JSON, but not of the expected shape."""


class TypeMismatch(BindError):
    """`found` ("string", "number 2.5") where Go expects `go_type`, in field `path` of the Go struct `struct`."""

    def __init__(self, found: str, go_type: str, struct: str = "", path: tuple[str, ...] = ()):
        self.found = found
        self.go_type = go_type
        self.struct = struct
        self.path = path

    def __str__(self) -> str:
        if self.struct or self.path:
            where = f"Go struct field {self.struct}.{'.'.join(self.path)} of type"
        else:
            where = "Go value of type"
        return f"json: cannot unmarshal {self.found} into {where} {self.go_type}"


class State:
    """Current position (innermost struct, path of field names) and the first error found.

    made: gets every list, dict and dataclass that is made, inner ones first, if the caller gives one.
    """

    def __init__(self, made: list | None = None) -> None:
        self.made = made
        self.struct = ""
        self.path: list[str] = []
        self.first_error: BindError | None = None

    def keep(self, container: C) -> C:
        """Note a new list, dict or dataclass in `made`."""
        if self.made is not None:
            self.made.append(container)
        return container

    def mismatch(self, value: JSONValue, go_type: str, found: str | None = None) -> None:
        """Record that `value` is not a `go_type`, unless an error is recorded already."""
        if self.first_error is None:
            self.first_error = TypeMismatch(found or type_name(value), go_type, self.struct, tuple(self.path))


def type_name(value: JSONValue) -> str:
    """JSON type of a value as Go's error texts name it; null never causes an error."""
    if isinstance(value, Number):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool):
        return "bool"
    return "object" if isinstance(value, Object) else "array"


class Kind(Generic[T]):
    """How one Go type is read and written; T is the Python type of its values."""

    go_type = ""

    def zero(self) -> T:
        """Value of a field that the JSON leaves out."""
        raise NotImplementedError

    def is_empty(self, value: T) -> bool:
        """Whether a field with `omit_empty` is left out."""
        return not value

    def encode(self, value: T) -> str:
        """JSON text of `value`."""
        return go_json.dumps(value)

    def decode(self, value: JSONValue, raw: str, current: T, state: State) -> T:
        """New value of a field. `raw`: JSON text of `value`; `current`: the old value, kept on a mismatch."""
        raise NotImplementedError


class _String(Kind[str]):
    go_type = "string"

    def zero(self) -> str:
        return ""

    def decode(self, value: JSONValue, raw: str, current: str, state: State) -> str:
        if value is None:
            return current
        if not is_string(value):
            state.mismatch(value, self.go_type)
            return current
        return value


class _Name(_String):
    """A model name; cut where it is too long to be valid."""

    def decode(self, value: JSONValue, raw: str, current: str, state: State) -> str:
        return shortened(super().decode(value, raw, current, state))


class _Time(_String):
    """RFC 3339 text; Go's zero time by default."""

    go_type = "time.Time"

    def zero(self) -> str:
        return go_json.ZERO_TIME

    def is_empty(self, value: str) -> bool:
        return False


class _Bool(Kind[bool]):
    go_type = "bool"

    def zero(self) -> bool:
        return False

    def decode(self, value: JSONValue, raw: str, current: bool, state: State) -> bool:
        if value is None:
            return current
        if not isinstance(value, bool):
            state.mismatch(value, self.go_type)
            return current
        return value


class _Int(Kind[int]):
    go_type = "int"

    def zero(self) -> int:
        return 0

    def decode(self, value: JSONValue, raw: str, current: int, state: State) -> int:
        if value is None:
            return current
        if not isinstance(value, Number):
            state.mismatch(value, self.go_type)
            return current
        if not re.fullmatch(r"-?[0-9]{1,19}", value) or not -MAX_INT64 - 1 <= int(value) <= MAX_INT64:
            state.mismatch(value, self.go_type, f"number {value}")
            return current
        return int(value)


class _Float(Kind[float]):
    go_type = "float64"

    def zero(self) -> float:
        return 0.0

    def decode(self, value: JSONValue, raw: str, current: float, state: State) -> float:
        if value is None:
            return current
        if not isinstance(value, Number):
            state.mismatch(value, self.go_type)
            return current
        return _to_float(value, state, current)


class _Float32(_Float):
    go_type = "float32"

    def encode(self, value: float) -> str:
        return go_json.dumps(go_json.Float32(value))

    def decode(self, value: JSONValue, raw: str, current: float, state: State) -> float:
        return go_json.Float32(super().decode(value, raw, current, state))


def _to_float(number: Number, state: State, current: T) -> float | T:
    converted = float(number)
    if converted in (float("inf"), float("-inf")):
        state.mismatch(number, "float64", f"number {number}")
        return current
    return converted


class _Any(Kind[Any]):
    """Go's `any`: dict, list, str, float, bool or None."""

    go_type = "interface {}"

    def zero(self) -> Any:
        return None

    def decode(self, value: JSONValue, raw: str, current: Any, state: State) -> Any:
        return to_plain(value, state)

    def is_empty(self, value: Any) -> bool:
        return value is None


def to_plain(value: JSONValue, state: State | None = None) -> Any:
    """A parsed value as Go's `any` holds it: numbers are floats, and the last of equal keys wins."""
    if isinstance(value, Number):
        return _to_float(value, state or State(), None)
    if isinstance(value, Object):
        plain: Any = {member.name: to_plain(member.value, state) for member in value}
    elif isinstance(value, list):
        plain = [to_plain(item, state) for item in value]
    else:
        return value
    return plain if state is None else state.keep(plain)


def loads(text: str, made: list | None = None) -> Any:
    """Like json.loads for a text that `encode.dumps` wrote. A long one is read step by step, as other threads run only
    in between. made: see `State`.
    """
    if len(text) <= LOADS_PIECE:
        return json.loads(text)
    state = State(made)

    def plain(value: JSONValue) -> Any:
        if isinstance(value, Number):
            return json.loads(value)
        if isinstance(value, Object):
            return state.keep({member.name: plain(member.value) for member in value})
        if isinstance(value, list):
            return state.keep([plain(item) for item in value])
        return value

    with parsed(text.encode()) as tree:
        return plain(tree)


class _Raw(Kind[go_json.RawJSON | None]):
    go_type = "json.RawMessage"

    def zero(self) -> None:
        return None

    def decode(self, value: JSONValue, raw: str, current: go_json.RawJSON | None, state: State) -> go_json.RawJSON:
        return go_json.RawJSON(raw)


class _Bytes(Kind[bytes | None]):
    """api.ImageData: base64 text, or a list of byte values. null is Go's nil, which is written as null again."""

    go_type = "api.ImageData"

    def zero(self) -> None:
        return None

    def decode(self, value: JSONValue, raw: str, current: bytes | None, state: State) -> bytes | None:
        if value is None:
            return None
        if is_string(value):
            return _base64(value, state)
        if not is_array(value):
            state.mismatch(value, self.go_type)
            return current
        numbers = [INT.decode(item, "", 0, state) for item in value]
        for item, number in zip(value, numbers):
            if not 0 <= number <= 255:
                state.mismatch(item, "uint8", f"number {item}")
        return bytes(number & 255 for number in numbers)


def _base64(text: str, state: State) -> bytes | None:
    try:
        return decode_base64(text)
    except IllegalBase64 as error:
        if state.first_error is None:
            state.first_error = BindError(str(error))
        return None


class IllegalBase64(ValueError):
    """The text is not base64; names the first byte that is wrong, as Go does."""

    def __init__(self, at: int):
        super().__init__(f"illegal base64 data at input byte {at}")


def decode_base64(text: str) -> bytes:
    """The bytes of a base64 text; line ends in it are skipped. Raises IllegalBase64."""
    pieces = (text[at : at + BASE64_PIECE] for at in range(0, len(text), BASE64_PIECE))
    text = "".join(piece.replace("\r", "").replace("\n", "") for piece in pieces)
    decoded = []
    for at in range(0, len(text), BASE64_PIECE):
        cancellation.check()
        piece = text[at : at + BASE64_PIECE]
        try:
            if piece.endswith("=") and at + BASE64_PIECE < len(text):
                raise ValueError("padding in the middle")
            decoded.append(binascii.a2b_base64(piece, strict_mode=True))
        except ValueError:
            legal = re.match(r"[A-Za-z0-9+/]*", piece)
            assert legal is not None  # matches the empty text, too
            raise IllegalBase64(min(at + legal.end(), len(text) // 4 * 4)) from None
    return b"".join(decoded)


class _Duration(Kind[int]):
    """api.Duration: nanoseconds; in JSON a number is in seconds, and a negative one means forever."""

    go_type = "api.Duration"

    def zero(self) -> int:
        return 0

    def decode(self, value: JSONValue, raw: str, current: int, state: State) -> int:
        try:
            return durations.from_json(to_plain(value))
        except ValueError as error:
            raise BindError(str(error)) from None

    def encode(self, value: int) -> str:
        return durations.to_json(value)


class _Think(Kind[bool | str]):
    """api.ThinkValue: True, False, "high", "medium" or "low"."""

    go_type = "api.ThinkValue"
    WORDS = '"high", "medium", "low", true, or false'

    def zero(self) -> bool:
        return False

    def decode(self, value: JSONValue, raw: str, current: bool | str, state: State) -> bool | str:
        if isinstance(value, bool):
            return value
        if value is None:
            return False
        if is_string(value):
            if value in ("high", "medium", "low"):
                return value
            raise BindError(f"invalid think value: {quote(value)} (must be {self.WORDS})")
        raise BindError(f"think must be a boolean or string ({self.WORDS})")


STRING = _String()
NAME = _Name()
TIME = _Time()
BOOL = _Bool()
INT = _Int()
FLOAT = _Float()
FLOAT32 = _Float32()
ANY = _Any()
RAW = _Raw()
BYTES = _Bytes()
DURATION = _Duration()
THINK = _Think()

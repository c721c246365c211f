"""Binds a parsed JSON value to a dataclass with the semantics of Go's encoding/json.

Keys match whatever their case (the exact spelling first by nature of being equal), later doubles win, null leaves a
plain field at its zero and makes a pointer, list or map None, unknown keys are skipped. A value of the wrong type is
remembered, the rest is still read, and the first such error is raised at the end, in Go's words; an error of a type
with a decoder of its own is raised at once.

A field is declared `name: type = wire(KIND, "name")`. Kinds: STRING, NAME, BOOL, INT, ANY, RAW, DURATION, THINK,
BYTES, `Pointer(kind)`, `ListOf(kind)`, `MapOf(kind)`, `Struct(cls)`, `Alias(cls)`.
"""

import base64
import binascii
import re
from dataclasses import field, fields

from vkbackend import cancellation

from . import durations
from . import encode as go_json
from .decode import JSONSyntaxError, Number, Object, parse
from .folding import fold
from .human import shortened
from .text import quote

MAX_INT64 = (1 << 63) - 1


class BindError(Exception):
    """The body is JSON, but not of the shape asked for."""


class TypeMismatch(BindError):
    """`found` ("string", "number 2.5") where Go wanted `go_type`; `struct` and `path` say where."""

    def __init__(self, found, go_type, struct="", path=()):
        self.found, self.go_type, self.struct, self.path = found, go_type, struct, tuple(path)

    def __str__(self):
        if self.struct or self.path:
            where = f"Go struct field {self.struct}.{'.'.join(self.path)} of type"
        else:
            where = "Go value of type"
        return f"json: cannot unmarshal {self.found} into {where} {self.go_type}"


class _State:
    """Where binding is (innermost struct, path of field names), and the first mismatch met."""

    def __init__(self):
        self.struct, self.path, self.first_error = "", [], None

    def mismatch(self, value, go_type, found=None):
        if self.first_error is None:
            self.first_error = TypeMismatch(found or _found(value), go_type, self.struct, self.path)


def _found(value) -> str:
    if isinstance(value, Number):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool):
        return "bool"
    return "object" if isinstance(value, Object) else "array"


class Kind:
    """How one Go type reads and writes. `decode(value, raw, current, state)` -> the new value."""

    go_type = ""

    def zero(self):
        return None

    def is_empty(self, value) -> bool:
        return not value

    def encode(self, value) -> str:
        return go_json.dumps(value)

    def decode(self, value, raw, current, state):
        raise NotImplementedError


class _String(Kind):
    go_type = "string"

    def zero(self):
        return ""

    def decode(self, value, raw, current, state):
        if value is None:
            return current
        if not isinstance(value, str) or isinstance(value, Number):
            state.mismatch(value, self.go_type)
            return current
        return value


class _Name(_String):
    """Text that is parsed as a model's name, and cut where it is too long to be one."""

    def decode(self, value, raw, current, state):
        return shortened(super().decode(value, raw, current, state))


class _Bool(Kind):
    go_type = "bool"

    def zero(self):
        return False

    def decode(self, value, raw, current, state):
        if value is None:
            return current
        if not isinstance(value, bool):
            state.mismatch(value, self.go_type)
            return current
        return value


class _Int(Kind):
    go_type = "int"

    def zero(self):
        return 0

    def decode(self, value, raw, current, state):
        if value is None:
            return current
        if not isinstance(value, Number):
            state.mismatch(value, self.go_type)
            return current
        if not re.fullmatch(r"-?[0-9]{1,19}", value) or not -MAX_INT64 - 1 <= int(value) <= MAX_INT64:
            state.mismatch(value, self.go_type, f"number {value}")
            return current
        return int(value)


class _Float(Kind):
    go_type = "float64"

    def zero(self):
        return 0.0

    def decode(self, value, raw, current, state):
        if value is None:
            return current
        if not isinstance(value, Number):
            state.mismatch(value, self.go_type)
            return current
        return _to_float(value, state, current)


def _to_float(number, state, current):
    converted = float(number)
    if converted in (float("inf"), float("-inf")):
        state.mismatch(number, "float64", f"number {number}")
        return current
    return converted


class _Any(Kind):
    """Go's `any`: dict, list, str, float, bool or None."""

    go_type = "interface {}"

    def decode(self, value, raw, current, state):
        return to_plain(value, state)

    def is_empty(self, value):
        return value is None


def to_plain(value, state=None):
    """A parsed value as Go's map[string]any holds it: numbers are floats, doubles in objects overwritten by the
    later.
    """
    if isinstance(value, Number):
        return _to_float(value, state or _State(), None)
    if isinstance(value, Object):
        return {member.name: to_plain(member.value, state) for member in value}
    if isinstance(value, list):
        return [to_plain(item, state) for item in value]
    return value


class _Raw(Kind):
    go_type = "json.RawMessage"

    def decode(self, value, raw, current, state):
        return go_json.RawJSON(raw)


class _Bytes(Kind):
    """api.ImageData: base64 text, or a list of byte values. null is Go's nil, which is written as null again."""

    go_type = "api.ImageData"

    def decode(self, value, raw, current, state):
        if value is None:
            return None
        if isinstance(value, str) and not isinstance(value, Number):
            return _base64(value, state)
        if not isinstance(value, list) or isinstance(value, Object):
            state.mismatch(value, self.go_type)
            return current
        numbers = [_INT_KIND.decode(item, "", 0, state) for item in value]
        for item, number in zip(value, numbers):
            if not 0 <= number <= 255:
                state.mismatch(item, "uint8", f"number {item}")
        return bytes(number & 255 for number in numbers)


def _base64(text, state):
    text = text.replace("\r", "").replace("\n", "")
    try:
        if not text.isascii() or len(text) % 4:
            raise binascii.Error
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        legal = re.match(r"[A-Za-z0-9+/]*", text).end()
        if state.first_error is None:
            state.first_error = BindError(f"illegal base64 data at input byte {min(legal, len(text) // 4 * 4)}")
        return None


class _Duration(Kind):
    """api.Duration: nanoseconds; a number counts seconds, a negative one means for ever."""

    go_type = "api.Duration"

    def decode(self, value, raw, current, state):
        try:
            return durations.from_json(to_plain(value))
        except ValueError as error:
            raise BindError(str(error)) from None

    def encode(self, value):
        return durations.to_json(value)


class _Think(Kind):
    """api.ThinkValue: True, False, "high", "medium" or "low"."""

    go_type = "api.ThinkValue"
    WORDS = '"high", "medium", "low", true, or false'

    def decode(self, value, raw, current, state):
        if isinstance(value, bool):
            return value
        if value is None:
            return False
        if isinstance(value, str) and not isinstance(value, Number):
            if value in ("high", "medium", "low"):
                return value
            raise BindError(f"invalid think value: {quote(value)} (must be {self.WORDS})")
        raise BindError(f"think must be a boolean or string ({self.WORDS})")


class Pointer(Kind):
    """None where the key is absent or null; else the inner kind's value, kept even when it is zero."""

    def __init__(self, inner):
        self.inner, self.go_type = inner, inner.go_type

    def is_empty(self, value):
        return value is None

    def encode(self, value):
        return "null" if value is None else self.inner.encode(value)

    def decode(self, value, raw, current, state):
        if value is None:
            return None
        return self.inner.decode(value, raw, self.inner.zero() if current is None else current, state)


class ListOf(Kind):
    def __init__(self, inner, go_type=None):
        self.inner, self.go_type = inner, go_type or f"[]{inner.go_type}"

    def encode(self, value):
        return "null" if value is None else "[" + ",".join(map(self.inner.encode, value)) + "]"

    def decode(self, value, raw, current, state):
        if value is None:
            return None
        if not isinstance(value, list) or isinstance(value, Object):
            state.mismatch(value, self.go_type)
            return current
        return [self.inner.decode(item, "", self.inner.zero(), state) for item in value]


class MapOf(Kind):
    def __init__(self, inner, go_type=None):
        self.inner, self.go_type = inner, go_type or f"map[string]{inner.go_type}"

    def encode(self, value):
        if value is None:
            return "null"
        return "{" + ",".join(f"{go_json.dumps(key)}:{self.inner.encode(value[key])}" for key in sorted(value)) + "}"

    def decode(self, value, raw, current, state):
        if value is None:
            return None
        if not isinstance(value, Object):
            state.mismatch(value, self.go_type)
            return current
        result = dict(current or {})
        for member in value:
            result[member.name] = self.inner.decode(member.value, member.raw, self.inner.zero(), state)
        return result


class Struct(Kind):
    """A dataclass of `wire` fields. Go's package of it is `api` unless the class says otherwise (`GO_PACKAGE`); an
    empty `go_name` is Go's struct without a name.
    """

    def __init__(self, cls, go_name=None):
        self.cls, self.name = cls, cls.__name__ if go_name is None else go_name
        self.go_type = f"{getattr(cls, 'GO_PACKAGE', 'api')}.{self.name}"

    def zero(self):
        return self.cls()

    def is_empty(self, value):
        return False

    def decode(self, value, raw, current, state):
        cancellation.check()
        current = self.cls() if current is None else current
        if value is None:
            return current
        if not isinstance(value, Object):
            state.mismatch(value, self.go_type)
            return current
        known = {fold(item.metadata["name"]): item for item in fields(self.cls) if item.metadata["name"] != "-"}
        outer = state.struct
        for member in value:
            item = known.get(fold(member.name))
            if item is None:
                continue
            state.struct = self.name
            state.path.append(item.metadata["name"])
            decoded = item.metadata["kind"].decode(member.value, member.raw, getattr(current, item.name), state)
            state.path.pop()
            setattr(current, item.name, decoded)
        state.struct = outer
        return current


class Alias(Struct):
    """A struct whose Go type decodes itself through an alias: its own errors come at once, with the path from here
    on put in front.
    """

    def decode(self, value, raw, current, state):
        inner = _State()
        try:
            result = Struct(self.cls, "Alias").decode(value, raw, self.cls(), inner)
            if inner.first_error:
                raise inner.first_error
        except TypeMismatch as error:
            if state.struct:
                error.struct = state.struct
            error.path = (*state.path, *error.path)
            raise
        return result.normalised()


_INT_KIND = _Int()
STRING, NAME, BOOL, INT, FLOAT, ANY, RAW, BYTES, DURATION, THINK = (
    _String(),
    _Name(),
    _Bool(),
    _INT_KIND,
    _Float(),
    _Any(),
    _Raw(),
    _Bytes(),
    _Duration(),
    _Think(),
)


def wire(kind: Kind, name: str, *, omit_empty: bool = False):
    """A dataclass field that JSON calls `name`."""
    return field(default_factory=kind.zero, metadata={"kind": kind, "name": name, "omit_empty": omit_empty})


def bind(cls, body: bytes):
    """-> a `cls` filled from the first JSON value of `body`.

    Raises JSONSyntaxError (`.is_empty_body` where there is none) and BindError.
    """
    state = _State()
    result = Struct(cls).decode(parse(body), "", cls(), state)
    if state.first_error:
        raise state.first_error
    return result


__all__ = [
    "ANY",
    "BOOL",
    "BYTES",
    "DURATION",
    "FLOAT",
    "INT",
    "NAME",
    "RAW",
    "STRING",
    "THINK",
    "Alias",
    "BindError",
    "JSONSyntaxError",
    "Kind",
    "ListOf",
    "MapOf",
    "Pointer",
    "Struct",
    "TypeMismatch",
    "bind",
    "to_plain",
    "wire",
]

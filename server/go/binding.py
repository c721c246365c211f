"""Binds a parsed JSON value to a dataclass with the semantics of Go's encoding/json.

Keys match regardless of case, the last of equal keys wins, null leaves a plain field at its zero value and makes a
pointer, list or map None, and unknown keys are skipped. A value of the wrong type is recorded, the rest is still read,
and the first such error is raised at the end, in Go's words; types with a decoder of their own raise at once.

A field is declared `name: type = wire(KIND, "name")`. Kinds: the constants of kinds.py, `Pointer(kind)`,
`ListOf(kind)`, `MapOf(kind)`, `Struct(cls)`, `Alias(cls)`.
"""

from dataclasses import Field, field, fields
from typing import Any, ClassVar, Protocol, TypeVar

from vkbackend import cancellation

from . import encode as go_json
from .decode import JSONValue, Object, is_array, parsed
from .folding import fold
from .kinds import Kind, State, T, TypeMismatch


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


class _Aliased(_Dataclass, Protocol):
    def after_decoding(self) -> None: ...


D = TypeVar("D", bound=_Dataclass)
A = TypeVar("A", bound=_Aliased)


class Pointer(Kind[T | None]):
    """None where the key is absent or null; otherwise the inner kind's value, written even when it is zero."""

    def __init__(self, inner: Kind[T]):
        self.inner = inner
        self.go_type = inner.go_type

    def zero(self) -> None:
        return None

    def is_empty(self, value: T | None) -> bool:
        return value is None

    def encode(self, value: T | None) -> str:
        return "null" if value is None else self.inner.encode(value)

    def decode(self, value: JSONValue, raw: str, current: T | None, state: State) -> T | None:
        if value is None:
            return None
        return self.inner.decode(value, raw, self.inner.zero() if current is None else current, state)


class ListOf(Kind[list[T] | None]):
    """A Go slice; None is Go's nil, which is written as null."""

    def __init__(self, inner: Kind[T], go_type: str | None = None):
        self.inner = inner
        self.go_type = go_type or f"[]{inner.go_type}"

    def zero(self) -> None:
        return None

    def encode(self, value: list[T] | None) -> str:
        if type(self.inner).encode is Kind.encode:  # at once, which is faster for thousands of numbers
            return go_json.dumps(value)
        return "null" if value is None else "[" + ",".join(map(self.inner.encode, value)) + "]"

    def decode(self, value: JSONValue, raw: str, current: list[T] | None, state: State) -> list[T] | None:
        if value is None:
            return None
        if not is_array(value):
            state.mismatch(value, self.go_type)
            return current
        return state.keep([self.inner.decode(item, "", self.inner.zero(), state) for item in value])


class MapOf(Kind[dict[str, T] | None]):
    """A Go map with string keys; None is Go's nil, which is written as null."""

    def __init__(self, inner: Kind[T], go_type: str | None = None):
        self.inner = inner
        self.go_type = go_type or f"map[string]{inner.go_type}"

    def zero(self) -> None:
        return None

    def encode(self, value: dict[str, T] | None) -> str:
        if value is None:
            return "null"
        return (
            "{"
            + ",".join(f"{go_json.dumps(key)}:{self.inner.encode(value[key])}" for key in go_json.sorted_keys(value))
            + "}"
        )

    def decode(self, value: JSONValue, raw: str, current: dict[str, T] | None, state: State) -> dict[str, T] | None:
        if value is None:
            return None
        if not isinstance(value, Object):
            state.mismatch(value, self.go_type)
            return current
        result = dict(current or {})
        for member in value:
            result[member.name] = self.inner.decode(member.value, member.raw, self.inner.zero(), state)
        return state.keep(result)


class Struct(Kind[D]):
    """A dataclass of `wire` fields.

    Its Go package is `api` unless the class sets `GO_PACKAGE`; an empty `go_name` is an anonymous Go struct.
    """

    def __init__(self, cls: type[D], go_name: str | None = None):
        self.cls = cls
        self.name = cls.__name__ if go_name is None else go_name
        self.go_type = f"{getattr(cls, 'GO_PACKAGE', 'api')}.{self.name}"
        self._known = {fold(item.metadata["name"]): item for item in fields(cls)}

    def zero(self) -> D:
        return self.cls()

    def is_empty(self, value: D) -> bool:
        return False

    def decode(self, value: JSONValue, raw: str, current: D, state: State) -> D:
        cancellation.check()
        if value is None:
            return current
        if not isinstance(value, Object):
            state.mismatch(value, self.go_type)
            return current
        outer = state.struct
        for member in value:
            item = self._known.get(fold(member.name))
            if item is None:
                continue
            state.struct = self.name
            state.path.append(item.metadata["name"])
            decoded = item.metadata["kind"].decode(member.value, member.raw, getattr(current, item.name), state)
            state.path.pop()
            setattr(current, item.name, decoded)
        state.struct = outer
        return state.keep(current)


class Alias(Struct[A]):
    """A struct whose Go type decodes itself through an alias.

    Its errors are raised at once, with the path to this struct in front of their own.
    """

    def __init__(self, cls: type[A]):
        super().__init__(cls)
        self._alias = Struct(cls, "Alias")

    def decode(self, value: JSONValue, raw: str, current: A, state: State) -> A:
        inner = State(state.made)
        try:
            result = self._alias.decode(value, raw, self.cls(), inner)
            if inner.first_error:
                raise inner.first_error
        except TypeMismatch as error:
            if state.struct:
                error.struct = state.struct
            error.path = (*state.path, *error.path)
            raise
        result.after_decoding()
        return result


def wire(kind: Kind[T], name: str, *, omit_empty: bool = False) -> T:
    """A dataclass field called `name` in JSON. To a type checker it is a value of the field's type."""
    return field(default_factory=kind.zero, metadata={"kind": kind, "name": name, "omit_empty": omit_empty})


def bind(cls: type[D], body: bytes, made: list | None = None) -> D:
    """A `cls` filled from the first JSON value of `body`. made: gets all containers of the result, inner ones first.

    Raises JSONSyntaxError (`.is_empty_body` if there is no value) and BindError.
    """
    state = State(made)
    with parsed(body) as value:
        result = Struct(cls).decode(value, "", cls(), state)
    if state.first_error:
        raise state.first_error
    return result

"""The values a template sees, with as much of Go's type system as templates can observe.

nil, bool, int, float64, complex128 and string are None, bool, int, float, complex and str; bytes of a string that are
not UTF-8 are lone surrogates. `Slice`, `Map` and `Struct` carry their Go type; `Interface` marks a value whose static
type is interface{} (an element of map[string]any or []any), which matters for error messages and for nil.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Interface:
    """A value seen through interface{}; None inside is a nil interface."""

    value: Any


class Byte(int):
    """A uint8, the result of indexing a string."""


@dataclass
class Slice:
    """items None: Go's nil slice. text: the String method, if the type has one."""

    type_name: str
    items: list | None
    text: Callable[["Slice"], str] | None = None

    def __len__(self):
        return len(self.items or ())

    @property
    def holds_interfaces(self) -> bool:
        """Whether the static type of its items is interface{}."""
        return self.type_name == "[]interface {}"


@dataclass
class Bytes:
    """A []byte type (an image)."""

    type_name: str
    data: bytes


@dataclass
class Map:
    """A map with string keys. items None: Go's nil map. element: type of the elements."""

    items: dict | None
    type_name: str = "map[string]interface {}"
    element: str = "interface {}"
    missing: Any = None  # the zero value of `element`
    pointer_text: Callable[["Map"], str] | None = None

    def __len__(self):
        return len(self.items or ())

    def sorted_items(self) -> list[tuple[str, object]]:
        """Return the items in the order in which Go's templates and fmt walk a map."""
        return sorted((self.items or {}).items(), key=lambda item: item[0].encode("utf-8", "surrogateescape"))


@dataclass
class Struct:
    """A struct or a pointer to one.

    text: the String method of the value. pointer_text: the String method of the pointer, which printing a copy ignores.
    """

    type_name: str
    fields: dict[str, Any]
    pointer: bool = False
    methods: dict[str, Callable] = field(default_factory=dict)
    text: Callable[["Struct"], str] | None = None
    pointer_text: Callable[["Struct"], str] | None = None
    to_json: Callable[["Struct"], Any] | None = None


def unwrap(value: object) -> object:
    """The value inside an Interface, or the value itself."""
    while isinstance(value, Interface):
        value = value.value
    return value


def from_json(value: object) -> object:
    """Convert a decoded JSON value to what Go's `any` holds: numbers become float64."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, list):
        return Slice("[]interface {}", [from_json(item) for item in value])
    if isinstance(value, dict):
        return Map({key: from_json(item) for key, item in value.items()})
    raise TypeError(f"{type(value).__name__} is not a decoded JSON value")


def type_name(value: object) -> str:
    """Return Go's name of a value's type, as %T prints it."""
    value = unwrap(value)
    if isinstance(value, Struct):
        return "*" * value.pointer + value.type_name
    if isinstance(value, (Slice, Map, Bytes)):
        return value.type_name
    for kind, name in (
        (bool, "bool"),
        (Byte, "uint8"),
        (int, "int"),
        (float, "float64"),
        (complex, "complex128"),
        (str, "string"),
    ):
        if isinstance(value, kind):
            return name
    if value is None:
        return "<nil>"
    return "func"


def static_type_name(value: object) -> str:
    """Like `type_name`, but returns interface {} for an Interface."""
    return "interface {}" if isinstance(value, Interface) else type_name(value)


def is_nil(value: object) -> bool:
    """Whether a value, or what an interface holds, is Go's nil."""
    value = unwrap(value)
    return value is None or (isinstance(value, (Slice, Map)) and value.items is None)


def truth(value: object) -> bool:
    """Whether `if` takes a value as true: each type's empty value is false."""
    value = unwrap(value)
    if isinstance(value, Struct):
        return True
    if isinstance(value, Bytes):
        return len(value.data) > 0
    if value is None or callable(value):
        return value is not None
    return len(value) > 0 if isinstance(value, (Slice, Map, str)) else bool(value)


def string_bytes(text: str) -> bytes:
    """The bytes of a Go string, those included that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def string_from(data: bytes) -> str:
    """A Go string of any bytes; the inverse of `string_bytes`."""
    return data.decode("utf-8", "surrogateescape")

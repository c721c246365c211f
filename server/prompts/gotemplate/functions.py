"""The functions a template may call: Go's own and Ollama's (json, currentDate, yesterdayDate, toTypeScriptType).

`FUNCTIONS[name]` declares the parameter types ("any" or "string") that execute.py checks. Functions raise
`FunctionError` with Go's message.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from typing import Never
from urllib.parse import quote_plus

from ...go.text import is_printable
from . import api_values, json_text
from .formatting import Verb, format_value, sprint, sprintf, sprintln
from .values import (
    Byte,
    Bytes,
    Interface,
    Map,
    Slice,
    Struct,
    is_nil,
    string_bytes,
    string_from,
    truth,
    type_name,
    unwrap,
)


class FunctionError(Exception):
    """A function rejected its arguments."""


@dataclass(frozen=True)
class Function:
    """fixed: types of the fixed parameters. rest: type of further parameters; None allows no more."""

    call: Callable
    fixed: tuple[str, ...] = ()
    rest: str | None = None


# --- collections


def _index(item: object, *indices: object) -> object:
    item = unwrap(item)
    if item is None:
        raise FunctionError("index of untyped nil")
    for index in indices:
        if item is None:
            raise FunctionError("index of nil pointer")
        item = unwrap(_index_once(item, unwrap(index)))
    return item


def _index_once(item: object, index: object) -> object:
    if isinstance(item, Map):
        if index is None or not isinstance(index, str):
            raise FunctionError(
                "value is nil; should be of type string"
                if index is None
                else f"value has type {type_name(index)}; should be string"
            )
        return (item.items or {}).get(index, item.missing)
    if isinstance(item, (Slice, str, Bytes)):
        elements = _elements(item)
        position = _position(index, len(elements))
        if position == len(elements):
            kind = "string" if isinstance(item, str) else "slice"
            raise FunctionError(f"reflect: {kind} index out of range")
        return elements[position] if isinstance(item, Slice) else Byte(elements[position])
    raise FunctionError(f"can't index item of type {type_name(item)}")


def _elements(item: Slice | str | Bytes) -> bytes | list:
    return string_bytes(item) if isinstance(item, str) else item.data if isinstance(item, Bytes) else item.items or []


def _position(index: object, capacity: int) -> int:
    if index is None:
        raise FunctionError("cannot index slice/array with nil")
    if isinstance(index, bool) or not isinstance(index, int):
        raise FunctionError(f"cannot index slice/array with type {type_name(index)}")
    if not 0 <= index <= capacity:
        raise FunctionError(f"index out of range: {index}")
    return int(index)


def _slice(item: object, *indices: object) -> Slice | str | Bytes:
    item = unwrap(item)
    if item is None:
        raise FunctionError("slice of untyped nil")
    if len(indices) > 3:
        raise FunctionError(f"too many slice indexes: {len(indices)}")
    if not isinstance(item, (Slice, str, Bytes)):
        raise FunctionError(f"can't slice item of type {type_name(item)}")
    if isinstance(item, str) and len(indices) == 3:
        raise FunctionError("cannot 3-index slice a string")
    elements = _elements(item)
    bounds = [0, len(elements)]
    for place, index in enumerate(indices):
        bounds[place : place + 1] = [_position(unwrap(index), len(elements))]
    for low, high in zip(bounds, bounds[1:]):
        if low > high:
            raise FunctionError(f"invalid slice index: {low} > {high}")
    kept = elements[bounds[0] : bounds[1]]
    if isinstance(item, Slice):
        return Slice(item.type_name, list(kept), item.text)
    return string_from(bytes(kept)) if isinstance(item, str) else Bytes(item.type_name, bytes(kept))


def _len(item: object) -> int:
    if isinstance(item, Interface) and unwrap(item) is None:
        raise FunctionError("len of nil pointer")
    item = unwrap(item)
    if item is None:
        raise FunctionError("reflect: call of reflect.Value.Type on zero Value")
    if isinstance(item, (str, Slice, Bytes)):
        return len(_elements(item))
    if isinstance(item, Map):
        return len(item)
    raise FunctionError(f"len of type {type_name(item)}")


# --- comparison


def _kind(value: object) -> str | None:
    """Return the kind of a value; only values of one kind compare. None: neither ordered nor plainly comparable."""
    for types, kind in ((bool, "bool"), (int, "int"), (float, "float"), (complex, "complex"), (str, "string")):
        if isinstance(value, types):
            return kind
    return None


def _incompatible(one: object, other: object) -> FunctionError:
    return FunctionError(f"incompatible types for comparison: {type_name(one)} and {type_name(other)}")


def _equal(first: object, *others: object) -> bool:
    first = unwrap(first)
    if not others:
        raise FunctionError("missing argument for comparison")
    return any(_equal_pair(first, unwrap(other)) for other in others)


def _equal_pair(one: object, other: object) -> bool:
    if _kind(one) != _kind(other):
        if one is not None and other is not None:
            raise _incompatible(one, other)
        return False
    if _kind(one) is not None:
        return one == other
    if one is not None and other is not None and type(one) is not type(other):
        verb = Verb("s")
        raise FunctionError(
            f"non-comparable types {format_value(one, verb)}: {type_name(one)}, {type_name(other)}: "
            f"{format_value(other, verb)}"
        )
    if is_nil(one) or is_nil(other):
        return is_nil(one) == is_nil(other)
    if isinstance(one, Struct) and one.pointer:
        return one is other
    if type_name(one) != type_name(other):
        raise _incompatible(one, other)
    raise FunctionError(f"non-comparable type {format_value(one, Verb('s'))}: {type_name(other)}")


def _not_equal(one: object, other: object) -> bool:
    return not _equal(one, other)


def _less(one: object, other: object) -> bool:
    one, other = unwrap(one), unwrap(other)
    for value in (one, other):
        if _kind(value) is None:
            raise FunctionError("invalid type for comparison")
    if _kind(one) != _kind(other):
        raise _incompatible(one, other)
    if _kind(one) in ("bool", "complex"):
        raise FunctionError("invalid type for comparison")
    if isinstance(one, str) and isinstance(other, str):
        return string_bytes(one) < string_bytes(other)
    assert isinstance(one, (int, float)) and isinstance(other, (int, float))
    return one < other


def _less_or_equal(one: object, other: object) -> bool:
    return _less(one, other) or _equal(one, other)


# --- escaping

_SCRIPT = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _joined(values: tuple[object, ...]) -> str:
    first = unwrap(values[0]) if len(values) == 1 else None
    return first if isinstance(first, str) else sprint(*values)


def _html(*values: object) -> str:
    return escape(_joined(values)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;").replace("\0", "\ufffd")


def _script(*values: object) -> str:
    pieces = []
    for char in _joined(values):
        if char in _SCRIPT:
            pieces.append(_SCRIPT[char])
        elif is_printable(char):
            pieces.append(char)
        else:
            pieces.append(f"\\u{ord(char):04X}")
    return "".join(pieces)


def _url_query(*values: object) -> str:
    return quote_plus(string_bytes(_joined(values)), safe="-_.~")


# --- Ollama's


def _json(value: object) -> str:
    try:
        return json_text.dumps(value)
    except ValueError:
        return ""


def _today(*_layout: str) -> str:
    return date.today().isoformat()


def _yesterday(*_layout: str) -> str:
    return (date.today() - timedelta(days=1)).isoformat()


def _call(function: object, *_arguments: object) -> Never:
    raise FunctionError("call of nil" if function is None else f"non-function of type {type_name(function)}")


BUILTINS = {
    "and": Function(lambda *values: values[-1], ("any",), "any"),  # execute.py short-circuits both
    "or": Function(lambda *values: values[-1], ("any",), "any"),
    "not": Function(lambda value: not truth(value), ("any",)),
    "call": Function(_call, ("any",), "any"),
    "html": Function(_html, (), "any"),
    "js": Function(_script, (), "any"),
    "urlquery": Function(_url_query, (), "any"),
    "index": Function(_index, ("any",), "any"),
    "slice": Function(_slice, ("any",), "any"),
    "len": Function(_len, ("any",)),
    "print": Function(sprint, (), "any"),
    "println": Function(sprintln, (), "any"),
    "printf": Function(sprintf, ("string",), "any"),
    "eq": Function(_equal, ("any",), "any"),
    "ne": Function(_not_equal, ("any", "any")),
    "lt": Function(_less, ("any", "any")),
    "le": Function(_less_or_equal, ("any", "any")),
    "gt": Function(lambda one, other: not _less_or_equal(one, other), ("any", "any")),
    "ge": Function(lambda one, other: not _less(one, other), ("any", "any")),
}
OLLAMA = {
    "json": Function(_json, ("any",)),
    "currentDate": Function(_today, (), "string"),
    "yesterdayDate": Function(_yesterday, (), "string"),
    "toTypeScriptType": Function(lambda value: api_values.typescript_type(unwrap(value)), ("any",)),
}
FUNCTIONS = BUILTINS | OLLAMA

"""Writes template values as JSON, as Go's encoding/json does. server/go/encode.py writes plain values."""

from collections.abc import Iterable

from ...go import encode
from .values import Bytes, Map, Slice, Struct, string_bytes, unwrap


def dumps(value: object) -> str:
    """Write a value as JSON. Raises ValueError for NaN, infinities and functions."""
    value = unwrap(value)
    if isinstance(value, Bytes):
        return encode.dumps(value.data)
    if isinstance(value, Slice):
        if value.items is None:
            return "null"
        if value.type_name == "api.PropertyType" and len(value) == 1:
            return dumps(value.items[0])
        return "[" + ",".join(map(dumps, value.items)) + "]"
    if isinstance(value, Map):
        return "null" if value.items is None else _object(value.sorted_items())
    if isinstance(value, Struct):
        assert value.to_json is not None  # every struct of api_values has one
        return _object(value.to_json(value).items())
    if isinstance(value, str):
        return encode.dumps(string_bytes(value).decode("utf-8", "replace"))
    if isinstance(value, complex) or callable(value):
        raise ValueError("json: unsupported type")
    return encode.dumps(value)


def _object(pairs: Iterable[tuple[str, object]]) -> str:
    return "{" + ",".join(f"{dumps(key)}:{dumps(item)}" for key, item in pairs) + "}"

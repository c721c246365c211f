"""Template values -> JSON text as Go's encoding/json writes it; plain values are left to server/go/encode.py."""

from ...go import encode
from .values import Bytes, Map, Slice, Struct, string_bytes, unwrap


def dumps(value) -> str:
    """Raises ValueError for what JSON cannot hold (NaN, infinities, functions)."""
    value = unwrap(value)
    if isinstance(value, (Slice, Map)) and value.items is None:
        return "null"
    if isinstance(value, Bytes):
        return encode.dumps(value.data)
    if isinstance(value, Slice):
        if value.type_name == "api.PropertyType" and len(value) == 1:
            return dumps(value.items[0])
        return "[" + ",".join(map(dumps, value.items)) + "]"
    if isinstance(value, Map):
        return _object(value.sorted_items())
    if isinstance(value, Struct):
        return _object(value.to_json(value).items())
    if isinstance(value, str):
        return encode.dumps(string_bytes(value).decode("utf-8", "replace"))
    if isinstance(value, complex) or callable(value):
        raise ValueError("json: unsupported type")
    return encode.dumps(value)


def _object(pairs):
    return "{" + ",".join(f"{dumps(key)}:{dumps(item)}" for key, item in pairs) + "}"

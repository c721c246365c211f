"""Converts messages and tools to template values: Ollama's api.Message, api.Tool and their parts, with their methods.

In: messages and tools as decoded JSON objects with the API's keys (`images` holds bytes or base64 text). Out:
`Struct`s and `Slice`s with the fields, String methods and JSON that published templates rely on.
"""

import base64

from .json_text import dumps
from .values import Bytes, Interface, Map, Slice, Struct, from_json, unwrap

TYPESCRIPT = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def message(source: dict) -> Struct:
    """Convert a message. It is a pointer, which decides how templates print it."""
    calls, images = source.get("tool_calls"), source.get("images")
    return Struct(
        "api.Message",
        {
            "Role": source.get("role") or "",
            "Content": source.get("content") or "",
            "Thinking": source.get("thinking") or "",
            "Images": Slice("[]api.ImageData", None if images is None else [_image(image) for image in images]),
            "ToolCalls": Slice("[]api.ToolCall", None if calls is None else [_tool_call(call) for call in calls]),
            "ToolName": source.get("tool_name") or "",
            "ToolCallID": source.get("tool_call_id") or "",
        },
        pointer=True,
        to_json=_message_json,
    )


def _image(image: bytes | str) -> Bytes:
    return Bytes("api.ImageData", image if isinstance(image, bytes) else base64.b64decode(image))


def _message_json(value: Struct) -> dict[str, object]:
    fields = value.fields
    return {
        "role": fields["Role"],
        "content": fields["Content"],
        **_filled(
            thinking=fields["Thinking"],
            images=fields["Images"],
            tool_calls=fields["ToolCalls"],
            tool_name=fields["ToolName"],
            tool_call_id=fields["ToolCallID"],
        ),
    }


def _tool_call(source: dict) -> Struct:
    function = source.get("function") or {}
    arguments = function.get("arguments")
    return Struct(
        "api.ToolCall",
        {
            "ID": source.get("id") or "",
            "Function": Struct(
                "api.ToolCallFunction",
                {
                    "Index": int(function.get("index") or 0),
                    "Name": function.get("name") or "",
                    "Arguments": Map(
                        None if arguments is None else {k: from_json(v) for k, v in arguments.items()},
                        "api.ToolCallFunctionArguments",
                        pointer_text=dumps,
                    ),
                },
                to_json=_call_function_json,
            ),
        },
        to_json=lambda value: {**_filled(id=value.fields["ID"]), "function": value.fields["Function"]},
    )


def _call_function_json(value: Struct) -> dict[str, object]:
    fields = value.fields
    return {"index": fields["Index"], "name": fields["Name"], "arguments": fields["Arguments"]}


def tools(sources: list | None) -> Slice:
    """Convert tools to api.Tools; None becomes nil."""
    return Slice("api.Tools", None if sources is None else [_tool(source) for source in sources], text=dumps)


def _tool(source: dict) -> Struct:
    return Struct(
        "api.Tool",
        {
            "Type": source.get("type") or "",
            "Items": _any(source.get("items")),
            "Function": _tool_function(source.get("function") or {}),
        },
        text=dumps,
        to_json=_tool_json,
    )


def _tool_json(value: Struct) -> dict[str, object]:
    fields = value.fields
    return {"type": fields["Type"], **_filled(items=fields["Items"]), "function": fields["Function"]}


def _tool_function(source: dict) -> Struct:
    return Struct(
        "api.ToolFunction",
        {
            "Name": source.get("name") or "",
            "Description": source.get("description") or "",
            "Parameters": _parameters(source.get("parameters") or {}),
        },
        pointer_text=dumps,
        to_json=_tool_function_json,
    )


def _tool_function_json(value: Struct) -> dict[str, object]:
    fields = value.fields
    return {"name": fields["Name"], **_filled(description=fields["Description"]), "parameters": fields["Parameters"]}


def _parameters(source: dict) -> Struct:
    properties, required = source.get("properties"), source.get("required")
    return Struct(
        "api.ToolFunctionParameters",
        {
            "Type": source.get("type") or "",
            "Defs": _any(source.get("$defs")),
            "Items": _any(source.get("items")),
            "Required": Slice("[]string", required),
            "Properties": Map(
                None if properties is None else {name: _property(p) for name, p in properties.items()},
                "map[string]api.ToolProperty",
                element="api.ToolProperty",
                missing=_property({}),
            ),
        },
        pointer_text=dumps,
        to_json=_parameters_json,
    )


def _parameters_json(value: Struct) -> dict[str, object]:
    fields = value.fields
    return {
        "type": fields["Type"],
        **_filled(**{"$defs": fields["Defs"]}, items=fields["Items"], required=fields["Required"]),
        "properties": fields["Properties"],
    }


def _property(source: dict) -> Struct:
    kinds, any_of, enum = source.get("type"), source.get("anyOf"), source.get("enum")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return Struct(
        "api.ToolProperty",
        {
            "AnyOf": Slice("[]api.ToolProperty", None if any_of is None else [_property(p) for p in any_of]),
            "Type": Slice("api.PropertyType", kinds, text=_property_type_text),
            "Items": _any(source.get("items")),
            "Description": source.get("description") or "",
            "Enum": Slice("[]interface {}", None if enum is None else [from_json(value) for value in enum]),
        },
        methods={"ToTypeScriptType": typescript_type},
        to_json=_property_json,
    )


def _property_json(value: Struct) -> dict[str, object]:
    fields = value.fields
    return _filled(
        anyOf=fields["AnyOf"],
        type=fields["Type"],
        items=fields["Items"],
        description=fields["Description"],
        enum=fields["Enum"],
    )


def _property_type_text(kinds: Slice) -> str:
    names = kinds.items or []
    return "[" + " ".join(names) + "]" if len(names) > 1 else "".join(names)


def typescript_type(value: object) -> str:
    """Write a property's type as TypeScript does; "any" for any other value."""
    if not isinstance(value, Struct) or value.type_name != "api.ToolProperty":
        return "any"
    if len(value.fields["AnyOf"]):
        return " | ".join(typescript_type(option) for option in value.fields["AnyOf"].items)
    kinds = value.fields["Type"].items or ["any"]
    return " | ".join(TYPESCRIPT.get(kind, "any") for kind in kinds)


def property_typescript(source: dict) -> str:
    """Write the TypeScript type of a property given as decoded JSON."""
    return typescript_type(_property(source))


def _any(value: object) -> Interface:
    return Interface(from_json(value))


def _filled(**members: object) -> dict[str, object]:
    """Return the JSON members that `omitempty` keeps."""
    return {name: value for name, value in members.items() if not _is_empty(value)}


def _is_empty(value: object) -> bool:
    value = unwrap(value)
    return (
        value is None
        or value == ""
        or value is False
        or value == 0
        or (isinstance(value, (Slice, Map)) and len(value) == 0)
    )

"""The recorded vectors of tool calls in terms of the code."""

import json

from vkbackend.server.go import encode
from vkbackend.server.go.binding import bind
from vkbackend.server.wire.conversation import Tool
from vkbackend.server.wire.native import ChatRequest


def tools(decoded: list | None) -> list[Tool]:
    """Tools as a request has them -> as parsers take them."""
    return bind(ChatRequest, json.dumps({"tools": decoded}).encode()).tools or []


def plain_calls(calls):
    """In the form of the vectors, arguments as the JSON text that clients get."""
    return [
        {"arguments": encode.dumps(call.function.arguments), "index": call.function.index, "name": call.function.name}
        for call in calls
    ]


def with_texts(recorded_calls):
    return [call | {"arguments": encode.dumps(as_floats(call["arguments"]))} for call in recorded_calls]


def as_floats(value):
    """Numbers as Go decodes them."""
    if isinstance(value, dict):
        return {key: as_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_floats(item) for item in value]
    return float(value) if type(value) is int else value

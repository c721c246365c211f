"""Messages of a conversation, and the tools a model may call: the parts of requests and answers that nest.

In and out: JSON through binding.py. A tool's parameters are a JSON schema, of which these types keep what prompts show.
"""

from dataclasses import dataclass

from ..go import encode as go_json
from ..go.binding import ANY, BYTES, INT, STRING, Alias, Kind, ListOf, MapOf, Struct, TypeMismatch, wire
from ..go.decode import Number, Object


class _PropertyType(Kind):
    """A tool parameter's type: one name or a list of names; kept as a list."""

    go_type = "[]string"

    def zero(self):
        return None

    def encode(self, value):
        return go_json.dumps(value[0] if len(value) == 1 else value)

    def decode(self, value, raw, current, state):
        if value is None:
            return [""]
        if isinstance(value, str) and not isinstance(value, Number):
            return [value]
        if not isinstance(value, list) or isinstance(value, Object):
            found = "object" if isinstance(value, Object) else "number" if isinstance(value, Number) else "bool"
            raise TypeMismatch(found, self.go_type, state.struct, state.path)
        for item in value:
            if item is not None and (not isinstance(item, str) or isinstance(item, Number)):
                raise TypeMismatch(
                    "number"
                    if isinstance(item, Number)
                    else "bool"
                    if isinstance(item, bool)
                    else "object"
                    if isinstance(item, Object)
                    else "array",
                    "string",
                    state.struct,
                    state.path,
                )
        return ["" if item is None else item for item in value]


PROPERTY_TYPE = _PropertyType()


@dataclass
class ToolCallFunction:
    index: int = wire(INT, "index")
    name: str = wire(STRING, "name")
    arguments: dict | None = wire(MapOf(ANY, "api.ToolCallFunctionArguments"), "arguments")


@dataclass
class ToolCall:
    id: str = wire(STRING, "id", omit_empty=True)
    function: ToolCallFunction = wire(Struct(ToolCallFunction), "function")


@dataclass
class Message:
    role: str = wire(STRING, "role")
    content: str = wire(STRING, "content")
    thinking: str = wire(STRING, "thinking", omit_empty=True)
    images: list[bytes | None] | None = wire(ListOf(BYTES), "images", omit_empty=True)
    tool_calls: list[ToolCall] | None = wire(ListOf(Struct(ToolCall)), "tool_calls", omit_empty=True)
    tool_name: str = wire(STRING, "tool_name", omit_empty=True)
    tool_call_id: str = wire(STRING, "tool_call_id", omit_empty=True)

    def normalised(self) -> "Message":
        """Roles are told apart in lower case."""
        self.role = self.role.lower()
        return self


class _Properties(MapOf):
    """name -> ToolProperty; the class is filled in below, since a property may hold properties."""

    def __init__(self):
        self.inner, self.go_type = None, "map[string]api.ToolProperty"


class _PropertyList(ListOf):
    def __init__(self):
        self.inner, self.go_type = None, "[]api.ToolProperty"


_PROPERTIES, _ANY_OF = _Properties(), _PropertyList()


@dataclass
class ToolProperty:
    any_of: list | None = wire(_ANY_OF, "anyOf", omit_empty=True)
    type: list[str] | None = wire(PROPERTY_TYPE, "type", omit_empty=True)
    items: object = wire(ANY, "items", omit_empty=True)
    description: str = wire(STRING, "description", omit_empty=True)
    enum: list | None = wire(ListOf(ANY), "enum", omit_empty=True)


_PROPERTIES.inner = _ANY_OF.inner = Struct(ToolProperty)


@dataclass
class ToolFunctionParameters:
    type: str = wire(STRING, "type")
    defs: object = wire(ANY, "$defs", omit_empty=True)
    items: object = wire(ANY, "items", omit_empty=True)
    required: list[str] | None = wire(ListOf(STRING), "required", omit_empty=True)
    properties: dict[str, ToolProperty] | None = wire(_PROPERTIES, "properties")


@dataclass
class ToolFunction:
    name: str = wire(STRING, "name")
    description: str = wire(STRING, "description", omit_empty=True)
    parameters: ToolFunctionParameters = wire(Struct(ToolFunctionParameters), "parameters")


@dataclass
class Tool:
    type: str = wire(STRING, "type")
    items: object = wire(ANY, "items", omit_empty=True)
    function: ToolFunction = wire(Struct(ToolFunction), "function")


MESSAGES, TOOLS = ListOf(Alias(Message)), ListOf(Struct(Tool), "api.Tools")

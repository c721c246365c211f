"""Messages of a conversation and the tools a model may call: nested parts of requests and answers.

In and out: JSON through binding.py. Of a tool's parameters, a JSON schema, these types keep what prompts show.
"""

from dataclasses import dataclass

from ..go import encode as go_json
from ..go.binding import Alias, ListOf, MapOf, Struct, wire
from ..go.decode import JSONValue, is_array, is_string
from ..go.kinds import ANY, BYTES, INT, STRING, Kind, State, TypeMismatch, type_name


class _PropertyType(Kind[list[str] | None]):
    """A tool parameter's type: one name or a list of names; kept as a list."""

    go_type = "[]string"

    def zero(self) -> None:
        return None

    def encode(self, value: list[str] | None) -> str:
        return go_json.dumps(value[0] if value is not None and len(value) == 1 else value)

    def decode(self, value: JSONValue, raw: str, current: list[str] | None, state: State) -> list[str]:
        if value is None:
            return [""]
        if is_string(value):
            return [value]
        if not is_array(value):
            raise TypeMismatch(type_name(value), self.go_type, state.struct, tuple(state.path))
        return [self._name(item, state) for item in value]

    def _name(self, item: JSONValue, state: State) -> str:
        if item is None:
            return ""
        if is_string(item):
            return item
        raise TypeMismatch(type_name(item), "string", state.struct, tuple(state.path))


PROPERTY_TYPE = _PropertyType()


@dataclass
class ToolCallFunction:
    """The function that a tool call names, with its arguments."""

    index: int = wire(INT, "index")
    name: str = wire(STRING, "name")
    arguments: dict | None = wire(MapOf(ANY, "api.ToolCallFunctionArguments"), "arguments")


@dataclass
class ToolCall:
    """A call that the model made, or that a message of the history repeats."""

    id: str = wire(STRING, "id", omit_empty=True)
    function: ToolCallFunction = wire(Struct(ToolCallFunction), "function")


@dataclass
class Message:
    """One message. Images are base64 in JSON. tool_name, tool_call_id: in a tool's answer, what was called."""

    role: str = wire(STRING, "role")
    content: str = wire(STRING, "content")
    thinking: str = wire(STRING, "thinking", omit_empty=True)
    images: list[bytes | None] | None = wire(ListOf(BYTES), "images", omit_empty=True)
    tool_calls: list[ToolCall] | None = wire(ListOf(Struct(ToolCall)), "tool_calls", omit_empty=True)
    tool_name: str = wire(STRING, "tool_name", omit_empty=True)
    tool_call_id: str = wire(STRING, "tool_call_id", omit_empty=True)

    def after_decoding(self) -> None:
        """Fold the role to lower case, as Ollama does on reading."""
        self.role = self.role.lower()


# A property may hold properties: `inner` is set once the class exists.
_PROPERTIES: "MapOf[ToolProperty]" = MapOf(ANY, "map[string]api.ToolProperty")
_ANY_OF: "ListOf[ToolProperty]" = ListOf(ANY, "[]api.ToolProperty")


@dataclass
class ToolProperty:
    """The JSON schema of one parameter of a tool, as far as prompts show it."""

    any_of: "list[ToolProperty] | None" = wire(_ANY_OF, "anyOf", omit_empty=True)
    type: list[str] | None = wire(PROPERTY_TYPE, "type", omit_empty=True)
    items: object = wire(ANY, "items", omit_empty=True)
    description: str = wire(STRING, "description", omit_empty=True)
    enum: list | None = wire(ListOf(ANY), "enum", omit_empty=True)


_PROPERTIES.inner = Struct(ToolProperty)
_ANY_OF.inner = _PROPERTIES.inner


@dataclass
class ToolFunctionParameters:
    """The JSON schema of a tool's parameters: an object."""

    type: str = wire(STRING, "type")
    defs: object = wire(ANY, "$defs", omit_empty=True)
    items: object = wire(ANY, "items", omit_empty=True)
    required: list[str] | None = wire(ListOf(STRING), "required", omit_empty=True)
    properties: dict[str, ToolProperty] | None = wire(_PROPERTIES, "properties")


@dataclass
class ToolFunction:
    """A function that the model may call."""

    name: str = wire(STRING, "name")
    description: str = wire(STRING, "description", omit_empty=True)
    parameters: ToolFunctionParameters = wire(Struct(ToolFunctionParameters), "parameters")


@dataclass
class Tool:
    """A tool that the model may call."""

    type: str = wire(STRING, "type")
    items: object = wire(ANY, "items", omit_empty=True)
    function: ToolFunction = wire(Struct(ToolFunction), "function")


MESSAGES = ListOf(Alias(Message))
TOOLS = ListOf(Struct(Tool), "api.Tools")

"""Requests and answers of /v1: one dataclass each, keys in the order in which they are written.

Fields that Ollama 0.12.11 ignores and this server honours come last in each request: n, logit_bias,
max_completion_tokens, echo, raw.
"""

from dataclasses import dataclass
from typing import Any

from ..go import encode
from ..go.binding import ListOf, MapOf, Pointer, Struct, wire
from ..go.decode import JSONValue, Number, is_array
from ..go.kinds import ANY, BOOL, FLOAT, FLOAT32, INT, NAME, RAW, STRING, Kind, State
from .conversation import TOOLS, Tool
from .native import DebugInfo, Logprob

MAX_ID_DIGITS = 18  # no vocabulary is that large, and Python refuses to read numbers of thousands of digits


class _Prompt(Kind[str | list[Any]]):
    """Text, or a list of texts or token ids (see `openai.prompts`), in plain Python values."""

    go_type = "string"

    def zero(self) -> str:
        return ""

    def decode(self, value: JSONValue, raw: str, current: str | list[Any], state: State) -> str | list[Any]:
        if is_array(value):
            return state.keep([_plain(item, state) for item in value])
        return STRING.decode(value, raw, current if isinstance(current, str) else "", state)


def _plain(value: JSONValue, state: State) -> Any:
    """Token ids as int; other values than texts and whole numbers stay as parsed, and are rejected later."""
    if isinstance(value, Number):
        return int(value) if value.isdigit() and len(value) <= MAX_ID_DIGITS else float(value)
    if is_array(value):
        return state.keep([_plain(item, state) for item in value])
    return value


PROMPT = _Prompt()
LOGIT_BIAS = MapOf(FLOAT, "map[string]float64")


# --- requests


@dataclass
class StreamOptions:
    """include_usage: a stream ends with a chunk that holds the usage."""

    GO_PACKAGE = "openai"
    include_usage: bool = wire(BOOL, "include_usage")


@dataclass
class JsonSchema:
    """The schema of a `json_schema` response format."""

    GO_PACKAGE = "openai"
    schema: encode.RawJSON | None = wire(RAW, "schema")


@dataclass
class ResponseFormat:
    """The format of an answer. type: text, json_object or json_schema."""

    GO_PACKAGE = "openai"
    type: str = wire(STRING, "type")
    json_schema: JsonSchema | None = wire(Pointer(Struct(JsonSchema)), "json_schema", omit_empty=True)


@dataclass
class Reasoning:
    """How much a model may think. effort: high, medium, low or none."""

    GO_PACKAGE = "openai"
    effort: str = wire(STRING, "effort")


@dataclass
class ToolCallFunction:
    """arguments: the text of a JSON object."""

    name: str = wire(STRING, "name")
    arguments: str = wire(STRING, "arguments")


@dataclass
class ToolCall:
    """A call that the model made. index: its place among the calls of the message."""

    GO_PACKAGE = "openai"
    id: str = wire(STRING, "id")
    index: int = wire(INT, "index")
    type: str = wire(STRING, "type")
    function: ToolCallFunction = wire(Struct(ToolCallFunction, ""), "function")


@dataclass
class Message:
    """content: text, a list of parts, or None."""

    GO_PACKAGE = "openai"
    role: str = wire(STRING, "role")
    content: object = wire(ANY, "content", omit_empty=True)
    reasoning: str = wire(STRING, "reasoning", omit_empty=True)
    tool_calls: list[ToolCall] | None = wire(ListOf(Struct(ToolCall)), "tool_calls", omit_empty=True)
    name: str = wire(STRING, "name", omit_empty=True)
    tool_call_id: str = wire(STRING, "tool_call_id", omit_empty=True)


@dataclass
class ChatCompletionRequest:
    """Body of POST /v1/chat/completions."""

    GO_PACKAGE = "openai"
    model: str = wire(NAME, "model")
    messages: list[Message] | None = wire(ListOf(Struct(Message)), "messages")
    stream: bool = wire(BOOL, "stream")
    stream_options: StreamOptions | None = wire(Pointer(Struct(StreamOptions)), "stream_options")
    max_tokens: int | None = wire(Pointer(INT), "max_tokens")
    seed: int | None = wire(Pointer(INT), "seed")
    stop: object = wire(ANY, "stop")
    temperature: float | None = wire(Pointer(FLOAT), "temperature")
    frequency_penalty: float | None = wire(Pointer(FLOAT), "frequency_penalty")
    presence_penalty: float | None = wire(Pointer(FLOAT), "presence_penalty")
    top_p: float | None = wire(Pointer(FLOAT), "top_p")
    response_format: ResponseFormat | None = wire(Pointer(Struct(ResponseFormat)), "response_format")
    tools: list[Tool] | None = wire(TOOLS, "tools")
    reasoning: Reasoning | None = wire(Pointer(Struct(Reasoning)), "reasoning")
    reasoning_effort: str | None = wire(Pointer(STRING), "reasoning_effort")
    logprobs: bool | None = wire(Pointer(BOOL), "logprobs")
    top_logprobs: int = wire(INT, "top_logprobs")
    debug_render_only: bool = wire(BOOL, "_debug_render_only")
    n: int | None = wire(Pointer(INT), "n")
    max_completion_tokens: int | None = wire(Pointer(INT), "max_completion_tokens")
    logit_bias: dict[str, float] | None = wire(LOGIT_BIAS, "logit_bias")


@dataclass
class CompletionRequest:
    """Body of POST /v1/completions."""

    GO_PACKAGE = "openai"
    model: str = wire(NAME, "model")
    prompt: str | list = wire(PROMPT, "prompt")
    frequency_penalty: float = wire(FLOAT32, "frequency_penalty")
    max_tokens: int | None = wire(Pointer(INT), "max_tokens")
    presence_penalty: float = wire(FLOAT32, "presence_penalty")
    seed: int | None = wire(Pointer(INT), "seed")
    stop: object = wire(ANY, "stop")
    stream: bool = wire(BOOL, "stream")
    stream_options: StreamOptions | None = wire(Pointer(Struct(StreamOptions)), "stream_options")
    temperature: float | None = wire(Pointer(FLOAT32), "temperature")
    top_p: float = wire(FLOAT32, "top_p")
    suffix: str = wire(STRING, "suffix")
    logprobs: int | None = wire(Pointer(INT), "logprobs")
    debug_render_only: bool = wire(BOOL, "_debug_render_only")
    n: int | None = wire(Pointer(INT), "n")
    max_completion_tokens: int | None = wire(Pointer(INT), "max_completion_tokens")
    logit_bias: dict[str, float] | None = wire(LOGIT_BIAS, "logit_bias")
    echo: bool | None = wire(Pointer(BOOL), "echo")
    raw: bool | None = wire(Pointer(BOOL), "raw")


@dataclass
class EmbedRequest:
    """Body of POST /v1/embeddings."""

    GO_PACKAGE = "openai"
    input: object = wire(ANY, "input")
    model: str = wire(NAME, "model")
    dimensions: int = wire(INT, "dimensions")
    encoding_format: str = wire(STRING, "encoding_format")


# --- answers


@dataclass
class Error:
    """What went wrong. type: the class of the error."""

    message: str = wire(STRING, "message")
    type: str = wire(STRING, "type")
    param: object = wire(ANY, "param")
    code: str | None = wire(Pointer(STRING), "code")


@dataclass
class ErrorResponse:
    """Answer to a request that failed."""

    error: Error = wire(Struct(Error), "error")


@dataclass
class Usage:
    """Numbers of tokens in the prompt, in the answer, and in both."""

    prompt_tokens: int = wire(INT, "prompt_tokens")
    completion_tokens: int = wire(INT, "completion_tokens")
    total_tokens: int = wire(INT, "total_tokens")


@dataclass
class ChoiceLogprobs:
    """One entry per token of the choice."""

    content: list[Logprob] | None = wire(ListOf(Struct(Logprob)), "content")


CHOICE_LOGPROBS = Pointer(Struct(ChoiceLogprobs))
FINISH_REASON = Pointer(STRING)
DEBUG = Pointer(Struct(DebugInfo))


@dataclass
class Choice:
    """One answer to the conversation. finish_reason: stop, length or tool_calls."""

    index: int = wire(INT, "index")
    message: Message = wire(Struct(Message), "message")
    finish_reason: str | None = wire(FINISH_REASON, "finish_reason")
    logprobs: ChoiceLogprobs | None = wire(CHOICE_LOGPROBS, "logprobs", omit_empty=True)


@dataclass
class ChatCompletion:
    """Answer of /v1/chat/completions. created: seconds since 1970."""

    id: str = wire(STRING, "id")
    object: str = wire(STRING, "object")
    created: int = wire(INT, "created")
    model: str = wire(STRING, "model")
    system_fingerprint: str = wire(STRING, "system_fingerprint")
    choices: list[Choice] | None = wire(ListOf(Struct(Choice)), "choices")
    usage: Usage = wire(Struct(Usage), "usage", omit_empty=True)
    debug_info: DebugInfo | None = wire(DEBUG, "_debug_info", omit_empty=True)


@dataclass
class ChunkChoice:
    """What a chunk adds to one choice. finish_reason: null until the last chunk."""

    index: int = wire(INT, "index")
    delta: Message = wire(Struct(Message), "delta")
    finish_reason: str | None = wire(FINISH_REASON, "finish_reason")
    logprobs: ChoiceLogprobs | None = wire(CHOICE_LOGPROBS, "logprobs", omit_empty=True)


@dataclass
class ChatCompletionChunk:
    """A piece of an answer of /v1/chat/completions. created: seconds since 1970."""

    id: str = wire(STRING, "id")
    object: str = wire(STRING, "object")
    created: int = wire(INT, "created")
    model: str = wire(STRING, "model")
    system_fingerprint: str = wire(STRING, "system_fingerprint")
    choices: list[ChunkChoice] | None = wire(ListOf(Struct(ChunkChoice)), "choices")
    usage: Usage | None = wire(Pointer(Struct(Usage)), "usage", omit_empty=True)


@dataclass
class LegacyLogprobs:
    """Log-probabilities in /v1/completions, one entry per token; text_offset in characters of the choice's text.

    The log-probabilities of a first token, which nothing precedes, are None.
    """

    tokens: list[str] | None = wire(ListOf(STRING), "tokens")
    token_logprobs: list[float | None] = wire(ANY, "token_logprobs")
    top_logprobs: list[dict[str, float | None] | None] | None = wire(ANY, "top_logprobs")
    text_offset: list[int] | None = wire(ListOf(INT), "text_offset")


@dataclass
class CompletionChoice:
    """One continuation of a prompt. finish_reason: null until it has ended."""

    text: str = wire(STRING, "text")
    index: int = wire(INT, "index")
    finish_reason: str | None = wire(FINISH_REASON, "finish_reason")
    logprobs: LegacyLogprobs | None = wire(Pointer(Struct(LegacyLogprobs)), "logprobs", omit_empty=True)


@dataclass
class Completion:
    """Answer of /v1/completions. created: seconds since 1970."""

    id: str = wire(STRING, "id")
    object: str = wire(STRING, "object")
    created: int = wire(INT, "created")
    model: str = wire(STRING, "model")
    system_fingerprint: str = wire(STRING, "system_fingerprint")
    choices: list[CompletionChoice] | None = wire(ListOf(Struct(CompletionChoice)), "choices")
    usage: Usage = wire(Struct(Usage), "usage", omit_empty=True)


@dataclass
class CompletionChunk:
    """A piece of an answer of /v1/completions. created: seconds since 1970."""

    id: str = wire(STRING, "id")
    object: str = wire(STRING, "object")
    created: int = wire(INT, "created")
    choices: list[CompletionChoice] | None = wire(ListOf(Struct(CompletionChoice)), "choices")
    model: str = wire(STRING, "model")
    system_fingerprint: str = wire(STRING, "system_fingerprint")
    usage: Usage | None = wire(Pointer(Struct(Usage)), "usage", omit_empty=True)


@dataclass
class Embedding:
    """embedding: a float32 array, or its bytes (written as base64)."""

    object: str = wire(STRING, "object")
    embedding: Any = wire(ANY, "embedding")
    index: int = wire(INT, "index")


@dataclass
class EmbeddingUsage:
    """Numbers of tokens in the texts."""

    prompt_tokens: int = wire(INT, "prompt_tokens")
    total_tokens: int = wire(INT, "total_tokens")


@dataclass
class EmbeddingList:
    """Answer of /v1/embeddings."""

    object: str = wire(STRING, "object")
    data: list[Embedding] | None = wire(ListOf(Struct(Embedding)), "data")
    model: str = wire(STRING, "model")
    usage: EmbeddingUsage = wire(Struct(EmbeddingUsage), "usage", omit_empty=True)


@dataclass
class Model:
    """A model in the store. created: seconds since 1970. owned_by: the namespace of its name."""

    id: str = wire(STRING, "id")
    object: str = wire(STRING, "object")
    created: int = wire(INT, "created")
    owned_by: str = wire(STRING, "owned_by")


@dataclass
class ModelList:
    """Answer of /v1/models."""

    object: str = wire(STRING, "object")
    data: list[Model] | None = wire(ListOf(Struct(Model)), "data")

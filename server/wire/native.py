"""Requests and answers of the native API: one dataclass each, keys in the order in which they are written.

Bind a body with `bind(ChatRequest, body)` (its rules are in go/binding.py), write an answer with
`encode.dumps(answer)`. Times are texts (`encode.now()`), durations nanoseconds, images bytes. Lists and maps that
a request leaves out are None.
"""

from dataclasses import dataclass

import numpy as np

from ..go import encode
from ..go.binding import ListOf, MapOf, Pointer, Struct, wire
from ..go.kinds import ANY, BOOL, BYTES, DURATION, INT, NAME, RAW, STRING, THINK, TIME
from .conversation import MESSAGES, TOOLS, Message, Tool, ToolCall

ANY_MAP = MapOf(ANY, "map[string]interface {}")


# --- requests


@dataclass
class GenerateRequest:
    """Body of POST /api/generate."""

    model: str = wire(NAME, "model")
    prompt: str = wire(STRING, "prompt")
    suffix: str = wire(STRING, "suffix")
    system: str = wire(STRING, "system")
    template: str = wire(STRING, "template")
    context: list[int] | None = wire(ListOf(INT), "context", omit_empty=True)
    stream: bool | None = wire(Pointer(BOOL), "stream", omit_empty=True)
    raw: bool = wire(BOOL, "raw", omit_empty=True)
    format: encode.RawJSON | None = wire(RAW, "format", omit_empty=True)
    keep_alive: int | None = wire(Pointer(DURATION), "keep_alive", omit_empty=True)
    images: list[bytes | None] | None = wire(ListOf(BYTES), "images", omit_empty=True)
    options: dict | None = wire(ANY_MAP, "options")
    think: bool | str | None = wire(Pointer(THINK), "think", omit_empty=True)
    truncate: bool | None = wire(Pointer(BOOL), "truncate", omit_empty=True)
    shift: bool | None = wire(Pointer(BOOL), "shift", omit_empty=True)
    debug_render_only: bool = wire(BOOL, "_debug_render_only", omit_empty=True)
    load_progress: bool = wire(BOOL, "load_progress", omit_empty=True)
    logprobs: bool = wire(BOOL, "logprobs", omit_empty=True)
    top_logprobs: int = wire(INT, "top_logprobs", omit_empty=True)


@dataclass
class ChatRequest:
    """Body of POST /api/chat."""

    model: str = wire(NAME, "model")
    messages: list[Message] | None = wire(MESSAGES, "messages")
    stream: bool | None = wire(Pointer(BOOL), "stream", omit_empty=True)
    format: encode.RawJSON | None = wire(RAW, "format", omit_empty=True)
    keep_alive: int | None = wire(Pointer(DURATION), "keep_alive", omit_empty=True)
    tools: list[Tool] | None = wire(TOOLS, "tools", omit_empty=True)
    options: dict | None = wire(ANY_MAP, "options")
    think: bool | str | None = wire(Pointer(THINK), "think", omit_empty=True)
    truncate: bool | None = wire(Pointer(BOOL), "truncate", omit_empty=True)
    shift: bool | None = wire(Pointer(BOOL), "shift", omit_empty=True)
    debug_render_only: bool = wire(BOOL, "_debug_render_only", omit_empty=True)
    load_progress: bool = wire(BOOL, "load_progress", omit_empty=True)
    logprobs: bool = wire(BOOL, "logprobs", omit_empty=True)
    top_logprobs: int = wire(INT, "top_logprobs", omit_empty=True)


@dataclass
class EmbedRequest:
    """Body of POST /api/embed. input: a text or a list of texts. dimensions: 0 for the whole vector."""

    model: str = wire(NAME, "model")
    input: object = wire(ANY, "input")
    keep_alive: int | None = wire(Pointer(DURATION), "keep_alive", omit_empty=True)
    truncate: bool | None = wire(Pointer(BOOL), "truncate", omit_empty=True)
    dimensions: int = wire(INT, "dimensions", omit_empty=True)
    options: dict | None = wire(ANY_MAP, "options")


@dataclass
class EmbeddingRequest:
    """Body of POST /api/embeddings."""

    model: str = wire(NAME, "model")
    prompt: str = wire(STRING, "prompt")
    keep_alive: int | None = wire(Pointer(DURATION), "keep_alive", omit_empty=True)
    options: dict | None = wire(ANY_MAP, "options")


@dataclass
class ShowRequest:
    """Body of POST /api/show."""

    model: str = wire(NAME, "model")
    system: str = wire(STRING, "system")
    template: str = wire(STRING, "template")
    verbose: bool = wire(BOOL, "verbose")
    options: dict | None = wire(ANY_MAP, "options")
    name: str = wire(NAME, "name")


@dataclass
class MemoryRequest:
    """Body of POST /api/memory. options: those of a generation, such as num_ctx."""

    model: str = wire(NAME, "model")
    options: dict | None = wire(ANY_MAP, "options")
    name: str = wire(NAME, "name")


@dataclass
class CreateRequest:
    """Body of POST /api/create. files, adapters: file name -> digest of a blob."""

    model: str = wire(NAME, "model")
    stream: bool | None = wire(Pointer(BOOL), "stream", omit_empty=True)
    quantize: str = wire(STRING, "quantize", omit_empty=True)
    from_: str = wire(NAME, "from", omit_empty=True)
    remote_host: str = wire(STRING, "remote_host", omit_empty=True)
    files: dict[str, str] | None = wire(MapOf(STRING), "files", omit_empty=True)
    adapters: dict[str, str] | None = wire(MapOf(STRING), "adapters", omit_empty=True)
    template: str = wire(STRING, "template", omit_empty=True)
    license: object = wire(ANY, "license", omit_empty=True)
    system: str = wire(STRING, "system", omit_empty=True)
    parameters: dict | None = wire(ANY_MAP, "parameters", omit_empty=True)
    messages: list[Message] | None = wire(MESSAGES, "messages", omit_empty=True)
    renderer: str = wire(STRING, "renderer", omit_empty=True)
    parser: str = wire(STRING, "parser", omit_empty=True)
    info: dict | None = wire(ANY_MAP, "info", omit_empty=True)
    name: str = wire(NAME, "name")
    quantization: str = wire(STRING, "quantization", omit_empty=True)


@dataclass
class DeleteRequest:
    """Body of DELETE /api/delete."""

    model: str = wire(NAME, "model")
    name: str = wire(NAME, "name")


@dataclass
class CopyRequest:
    """Body of POST /api/copy."""

    source: str = wire(NAME, "source")
    destination: str = wire(NAME, "destination")


@dataclass
class PullRequest:
    """Body of POST /api/pull. insecure: also over http, and with any certificate."""

    model: str = wire(NAME, "model")
    insecure: bool = wire(BOOL, "insecure", omit_empty=True)
    username: str = wire(STRING, "username")
    password: str = wire(STRING, "password")
    stream: bool | None = wire(Pointer(BOOL), "stream", omit_empty=True)
    name: str = wire(NAME, "name")


@dataclass
class PushRequest(PullRequest):
    """Body of POST /api/push, with the fields of a pull."""


# --- answers


@dataclass
class DebugInfo:
    """The prompt as written, and the number of its images: the answer to `_debug_render_only`."""

    rendered_template: str = wire(STRING, "rendered_template")
    image_count: int = wire(INT, "image_count", omit_empty=True)


@dataclass
class TokenLogprob:
    """A token and its natural log-probability. bytes: those of the token, which may be part of a character."""

    token: str = wire(STRING, "token")
    logprob: float | None = wire(ANY, "logprob")  # None: the first token of an echoed prompt
    bytes: list[int] | None = wire(ListOf(INT), "bytes", omit_empty=True)


@dataclass
class Logprob(TokenLogprob):
    """A token of the answer, and the likeliest tokens in its place."""

    top_logprobs: list[TokenLogprob] | None = wire(ListOf(Struct(TokenLogprob)), "top_logprobs", omit_empty=True)


@dataclass
class GenerateResponse:
    """Answer of /api/generate, or a piece of it: the last has the counts, and the durations in nanoseconds."""

    model: str = wire(STRING, "model")
    remote_model: str = wire(STRING, "remote_model", omit_empty=True)
    remote_host: str = wire(STRING, "remote_host", omit_empty=True)
    created_at: str = wire(TIME, "created_at")
    response: str = wire(STRING, "response")
    thinking: str = wire(STRING, "thinking", omit_empty=True)
    done: bool = wire(BOOL, "done")
    done_reason: str = wire(STRING, "done_reason", omit_empty=True)
    context: list[int] | None = wire(ListOf(INT), "context", omit_empty=True)
    total_duration: int = wire(INT, "total_duration", omit_empty=True)
    load_duration: int = wire(INT, "load_duration", omit_empty=True)
    prompt_eval_count: int = wire(INT, "prompt_eval_count", omit_empty=True)
    prompt_eval_duration: int = wire(INT, "prompt_eval_duration", omit_empty=True)
    eval_count: int = wire(INT, "eval_count", omit_empty=True)
    eval_duration: int = wire(INT, "eval_duration", omit_empty=True)
    tool_calls: list[ToolCall] | None = wire(ListOf(Struct(ToolCall)), "tool_calls", omit_empty=True)
    debug_info: DebugInfo | None = wire(Pointer(Struct(DebugInfo)), "_debug_info", omit_empty=True)
    logprobs: list[Logprob] | None = wire(ListOf(Struct(Logprob)), "logprobs", omit_empty=True)


@dataclass
class ChatResponse:
    """Answer of /api/chat, or a piece of it: the last has the counts, and the durations in nanoseconds."""

    model: str = wire(STRING, "model")
    remote_model: str = wire(STRING, "remote_model", omit_empty=True)
    remote_host: str = wire(STRING, "remote_host", omit_empty=True)
    created_at: str = wire(TIME, "created_at")
    message: Message = wire(Struct(Message), "message")
    done: bool = wire(BOOL, "done")
    done_reason: str = wire(STRING, "done_reason", omit_empty=True)
    debug_info: DebugInfo | None = wire(Pointer(Struct(DebugInfo)), "_debug_info", omit_empty=True)
    logprobs: list[Logprob] | None = wire(ListOf(Struct(Logprob)), "logprobs", omit_empty=True)
    total_duration: int = wire(INT, "total_duration", omit_empty=True)
    load_duration: int = wire(INT, "load_duration", omit_empty=True)
    prompt_eval_count: int = wire(INT, "prompt_eval_count", omit_empty=True)
    prompt_eval_duration: int = wire(INT, "prompt_eval_duration", omit_empty=True)
    eval_count: int = wire(INT, "eval_count", omit_empty=True)
    eval_duration: int = wire(INT, "eval_duration", omit_empty=True)


@dataclass
class EmbedResponse:
    """embeddings: lists of `encode.Float32`, or float32 arrays."""

    model: str = wire(STRING, "model")
    embeddings: list = wire(ANY, "embeddings")
    total_duration: int = wire(INT, "total_duration", omit_empty=True)
    load_duration: int = wire(INT, "load_duration", omit_empty=True)
    prompt_eval_count: int = wire(INT, "prompt_eval_count", omit_empty=True)


@dataclass
class ModelDetails:
    """Format, family, size and quantization of a model, as texts."""

    parent_model: str = wire(STRING, "parent_model")
    format: str = wire(STRING, "format")
    family: str = wire(STRING, "family")
    families: list[str] | None = wire(ListOf(STRING), "families")
    parameter_size: str = wire(STRING, "parameter_size")
    quantization_level: str = wire(STRING, "quantization_level")


DETAILS = Struct(ModelDetails)


@dataclass
class ListedModel:
    """A model in the store. size: bytes of all its blobs."""

    name: str = wire(STRING, "name")
    model: str = wire(STRING, "model")
    remote_model: str = wire(STRING, "remote_model", omit_empty=True)
    remote_host: str = wire(STRING, "remote_host", omit_empty=True)
    modified_at: str = wire(TIME, "modified_at")
    size: int = wire(INT, "size")
    digest: str = wire(STRING, "digest")
    details: ModelDetails = wire(DETAILS, "details", omit_empty=True)


@dataclass
class ListResponse:
    """Answer of /api/tags."""

    models: list[ListedModel] | None = wire(ListOf(Struct(ListedModel)), "models")


@dataclass
class RunningModel:
    """A model in memory. size, size_vram: bytes in total, and on devices. context_length: tokens."""

    name: str = wire(STRING, "name")
    model: str = wire(STRING, "model")
    size: int = wire(INT, "size")
    digest: str = wire(STRING, "digest")
    details: ModelDetails = wire(DETAILS, "details", omit_empty=True)
    expires_at: str = wire(TIME, "expires_at")
    size_vram: int = wire(INT, "size_vram")
    context_length: int = wire(INT, "context_length")


@dataclass
class ProcessResponse:
    """Answer of /api/ps."""

    models: list[RunningModel] | None = wire(ListOf(Struct(RunningModel)), "models")


@dataclass
class TensorDescription:
    """shape: innermost dimension first, as in GGUF."""

    name: str = wire(STRING, "name")
    type: str = wire(STRING, "type")
    shape: list[int] | None = wire(ListOf(INT), "shape")


@dataclass
class ShowResponse:
    """Answer of /api/show. model_info: the metadata of the GGUF file."""

    license: str = wire(STRING, "license", omit_empty=True)
    modelfile: str = wire(STRING, "modelfile", omit_empty=True)
    parameters: str = wire(STRING, "parameters", omit_empty=True)
    template: str = wire(STRING, "template", omit_empty=True)
    system: str = wire(STRING, "system", omit_empty=True)
    renderer: str = wire(STRING, "renderer", omit_empty=True)
    parser: str = wire(STRING, "parser", omit_empty=True)
    details: ModelDetails = wire(DETAILS, "details", omit_empty=True)
    messages: list[Message] | None = wire(ListOf(Struct(Message)), "messages", omit_empty=True)
    remote_model: str = wire(STRING, "remote_model", omit_empty=True)
    remote_host: str = wire(STRING, "remote_host", omit_empty=True)
    model_info: dict | None = wire(ANY_MAP, "model_info", omit_empty=True)
    projector_info: dict | None = wire(ANY_MAP, "projector_info", omit_empty=True)
    tensors: list[TensorDescription] | None = wire(ListOf(Struct(TensorDescription)), "tensors", omit_empty=True)
    capabilities: list[str] | None = wire(ListOf(STRING), "capabilities", omit_empty=True)
    modified_at: str = wire(TIME, "modified_at", omit_empty=True)


@dataclass
class LoadProgressResponse:
    """A line before the answer of a request with `load_progress`: bytes of weights loaded so far, and in total."""

    model: str = wire(STRING, "model")
    status: str = wire(STRING, "status")
    total: int = wire(INT, "total")
    completed: int = wire(INT, "completed")


@dataclass
class ProgressResponse:
    """One line of a pull, push or creation. total, completed: bytes of the blob `digest`."""

    status: str = wire(STRING, "status")
    digest: str = wire(STRING, "digest", omit_empty=True)
    total: int = wire(INT, "total", omit_empty=True)
    completed: int = wire(INT, "completed", omit_empty=True)


@dataclass
class EmbeddingResponse:
    """Answer of /api/embeddings."""

    embedding: np.ndarray = wire(ANY, "embedding")

"""What the document says of each route beyond its path: a line about it, what goes in, what comes out, in which form
it streams.
"""

from dataclasses import dataclass, field

from ..web.pages import PAGES
from ..wire import native, openai
from ..wire.native import EmbeddingResponse

NDJSON, EVENTS, TEXT, HTML = "application/x-ndjson", "text/event-stream", "text/plain", "text/html"


@dataclass(frozen=True)
class Operation:
    """request, answer: dataclasses, or None for an empty body; answer may also be the media type of a body that is
    no JSON, or a schema.

    stream: the media type of the streamed form, and chunk, the class of its objects (`answer` where it is None).
    streams_unasked: the native API streams unless told otherwise. early: the class of objects that may come before
    those of the stream. parameters: what the path's parts are, and the pattern that they match. status: of success.
    """

    summary: str
    request: type | str | None = None
    answer: type | str | dict | None = None
    stream: str = ""
    chunk: type | None = None
    early: type | None = None
    streams_unasked: bool = True
    parameters: dict[str, tuple[str, str]] = field(default_factory=dict)
    status: int = 200
    tag: str = "models"


_DIGEST = {"digest": ("sha256: and 64 hexadecimal digits", "^sha256[:-][0-9a-fA-F]{64}$")}
OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/api/generate"): Operation(
        "The text that goes on from a prompt",
        native.GenerateRequest,
        native.GenerateResponse,
        NDJSON,
        early=native.LoadProgressResponse,
        tag="generation",
    ),
    ("POST", "/api/chat"): Operation(
        "The next message of a conversation",
        native.ChatRequest,
        native.ChatResponse,
        NDJSON,
        early=native.LoadProgressResponse,
        tag="generation",
    ),
    ("POST", "/api/embed"): Operation(
        "Vectors of texts, of length 1", native.EmbedRequest, native.EmbedResponse, tag="generation"
    ),
    ("POST", "/api/embeddings"): Operation(
        "The vector of one text, as the model gives it", native.EmbeddingRequest, EmbeddingResponse, tag="generation"
    ),
    ("POST", "/v1/chat/completions"): Operation(
        "The next message of a conversation",
        openai.ChatCompletionRequest,
        openai.ChatCompletion,
        EVENTS,
        openai.ChatCompletionChunk,
        False,
        tag="OpenAI",
    ),
    ("POST", "/v1/completions"): Operation(
        "The text that goes on from a prompt; with `echo`, the prompt's own log-probabilities",
        openai.CompletionRequest,
        openai.Completion,
        EVENTS,
        openai.CompletionChunk,
        False,
        tag="OpenAI",
    ),
    ("POST", "/v1/embeddings"): Operation("Vectors of texts", openai.EmbedRequest, openai.EmbeddingList, tag="OpenAI"),
    ("GET", "/v1/models"): Operation("The models of the store", answer=openai.ModelList, tag="OpenAI"),
    ("GET", "/v1/models/{model}"): Operation(
        "One model", answer=openai.Model, parameters={"model": ("its name", "")}, tag="OpenAI"
    ),
    ("GET", "/api/tags"): Operation("The models of the store", answer=native.ListResponse),
    ("POST", "/api/show"): Operation("All that is known of a model", native.ShowRequest, native.ShowResponse),
    ("GET", "/api/ps"): Operation("The models in memory", answer=native.ProcessResponse),
    ("POST", "/api/create"): Operation(
        "A model from another one or from uploaded files", native.CreateRequest, native.ProgressResponse, NDJSON
    ),
    ("HEAD", "/api/blobs/{digest}"): Operation("Whether a blob is there", parameters=_DIGEST),
    ("POST", "/api/blobs/{digest}"): Operation(
        "Upload a blob", "application/octet-stream", parameters=_DIGEST, status=201
    ),
    ("POST", "/api/copy"): Operation("A further name for a model", native.CopyRequest),
    ("DELETE", "/api/delete"): Operation("Delete a model", native.DeleteRequest),
    ("POST", "/api/pull"): Operation(
        "Fetch a model from a registry", native.PullRequest, native.ProgressResponse, NDJSON
    ),
    ("POST", "/api/push"): Operation("Send a model to a registry", native.PushRequest, native.ProgressResponse, NDJSON),
    ("GET", "/"): Operation("Whether the server is there", answer=TEXT, tag="service"),
    ("GET", "/api/version"): Operation(
        "The version of Ollama's API that is served",
        tag="service",
        answer={"type": "object", "required": ["version"], "properties": {"version": {"type": "string"}}},
    ),
    ("GET", "/healthz"): Operation(
        "Whether the server answers, and which models are in memory",
        tag="service",
        answer={
            "type": "object",
            "required": ["status", "models"],
            "properties": {"status": {"const": "ok"}, "models": {"type": "array", "items": {"type": "string"}}},
        },
    ),
    ("GET", "/metrics"): Operation("Counters and gauges for Prometheus", answer=TEXT, tag="service"),
    ("GET", "/api/devices"): Operation(
        "Every Vulkan device, which ones models run on, and why",
        tag="service",
        answer={
            "type": "object",
            "required": ["vulkan", "chosen", "order", "runs_on", "problem", "devices"],
            "properties": {
                "vulkan": {"type": "boolean"},
                "chosen": {"type": ["integer", "null"]},
                "order": {"type": "array", "items": {"type": "integer"}},
                "runs_on": {"type": "string"},
                "problem": {"type": "string"},
                "devices": {"type": "array", "items": {"type": "object"}},
            },
        },
    ),
    ("GET", "/openapi.json"): Operation("This document", answer={"type": "object"}, tag="service"),
}
for _page in PAGES:
    OPERATIONS["GET", _page.path] = Operation(_page.summary, answer=HTML, tag="service")
    OPERATIONS["GET", _page.path + "/{file}"] = Operation(
        f"A file of {_page.path}", answer="*/*", parameters={"file": ("its name", "")}, tag="service"
    )

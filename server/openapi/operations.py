"""Table of operations: for each route a summary, its request and answer, and how it streams."""

from dataclasses import dataclass, field

from ..web.pages import PAGES
from ..wire import native, openai
from ..wire.native import EmbeddingResponse

NDJSON, EVENTS, TEXT, HTML = "application/x-ndjson", "text/event-stream", "text/plain", "text/html"


@dataclass(frozen=True)
class Operation:
    """One route in the OpenAPI document.

    request, answer: dataclasses, media types of bodies other than JSON, None for no body; answer may be a schema.
    stream: media type of the streamed form, chunk: class of its objects (None: `answer`).
    streams_by_default: whether a request without `stream` streams, as in the native API.
    early: class of objects that may precede the chunks.
    parameters: path parameter to its description and pattern.
    status: status of success.
    """

    summary: str
    request: type | str | None = None
    answer: type | str | dict | None = None
    stream: str = ""
    chunk: type | None = None
    early: type | None = None
    streams_by_default: bool = True
    parameters: dict[str, tuple[str, str]] = field(default_factory=dict)
    status: int = 200
    tag: str = "models"


_DIGEST = {"digest": ("`sha256:` and 64 hexadecimal digits", "^sha256[:-][0-9a-fA-F]{64}$")}
OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/api/generate"): Operation(
        "Text generated from a prompt",
        native.GenerateRequest,
        native.GenerateResponse,
        NDJSON,
        early=native.LoadProgressResponse,
        tag="generation",
    ),
    ("POST", "/api/chat"): Operation(
        "Next message of a conversation",
        native.ChatRequest,
        native.ChatResponse,
        NDJSON,
        early=native.LoadProgressResponse,
        tag="generation",
    ),
    ("POST", "/api/embed"): Operation(
        "Embeddings of one or more texts, normalized", native.EmbedRequest, native.EmbedResponse, tag="generation"
    ),
    ("POST", "/api/embeddings"): Operation(
        "Embedding of one text, not normalized", native.EmbeddingRequest, EmbeddingResponse, tag="generation"
    ),
    ("POST", "/v1/chat/completions"): Operation(
        "Next message of a conversation",
        openai.ChatCompletionRequest,
        openai.ChatCompletion,
        EVENTS,
        openai.ChatCompletionChunk,
        streams_by_default=False,
        tag="OpenAI",
    ),
    ("POST", "/v1/completions"): Operation(
        "Text generated from a prompt; with `echo`, also the prompt's own log-probabilities",
        openai.CompletionRequest,
        openai.Completion,
        EVENTS,
        openai.CompletionChunk,
        streams_by_default=False,
        tag="OpenAI",
    ),
    ("POST", "/v1/embeddings"): Operation(
        "Embeddings of one or more texts", openai.EmbedRequest, openai.EmbeddingList, tag="OpenAI"
    ),
    ("GET", "/v1/models"): Operation("List local models", answer=openai.ModelList, tag="OpenAI"),
    ("GET", "/v1/models/{model}"): Operation(
        "Retrieve one model", answer=openai.Model, parameters={"model": ("name", "")}, tag="OpenAI"
    ),
    ("GET", "/api/tags"): Operation("List local models", answer=native.ListResponse),
    ("POST", "/api/show"): Operation("Show details of a model", native.ShowRequest, native.ShowResponse),
    ("GET", "/api/ps"): Operation("List models in memory", answer=native.ProcessResponse),
    ("POST", "/api/create"): Operation(
        "Create a model from another one or from uploaded files", native.CreateRequest, native.ProgressResponse, NDJSON
    ),
    ("HEAD", "/api/blobs/{digest}"): Operation("Check whether a blob exists", parameters=_DIGEST),
    ("POST", "/api/blobs/{digest}"): Operation(
        "Upload a blob", "application/octet-stream", parameters=_DIGEST, status=201
    ),
    ("POST", "/api/copy"): Operation("Copy a model to another name", native.CopyRequest),
    ("DELETE", "/api/delete"): Operation("Delete a model", native.DeleteRequest),
    ("POST", "/api/pull"): Operation(
        "Pull a model from a registry", native.PullRequest, native.ProgressResponse, NDJSON
    ),
    ("POST", "/api/push"): Operation("Push a model to a registry", native.PushRequest, native.ProgressResponse, NDJSON),
    ("GET", "/"): Operation("Check that the server is running", answer=TEXT, tag="service"),
    ("GET", "/api/version"): Operation(
        "Version of Ollama's API that the server implements",
        tag="service",
        answer={"type": "object", "required": ["version"], "properties": {"version": {"type": "string"}}},
    ),
    ("GET", "/healthz"): Operation(
        "Health check, with the models in memory",
        tag="service",
        answer={
            "type": "object",
            "required": ["status", "models"],
            "properties": {"status": {"const": "ok"}, "models": {"type": "array", "items": {"type": "string"}}},
        },
    ),
    ("GET", "/metrics"): Operation("Metrics in Prometheus format", answer=TEXT, tag="service"),
    ("GET", "/api/devices"): Operation(
        "Vulkan devices, which ones run models, and why",
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
        f"A file of {_page.path}", answer="*/*", parameters={"file": ("name", "")}, tag="service"
    )

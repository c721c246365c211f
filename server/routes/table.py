"""The table of routes: method, path, function, and what the OpenAPI document says about them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from ..openapi.operations import EVENTS, HTML, NDJSON, TEXT, Operation, Operations
from ..web.pages import PAGES
from ..wire import native
from ..wire import openai as openai_wire
from . import create, embed, generate, models, openai, pages, registry, status


@dataclass(frozen=True)
class Route:
    """allow_head: whether a GET route also answers HEAD."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    operation: Operation
    allow_head: bool = True

    @property
    def definition(self) -> web.RouteDef:
        """The route as aiohttp takes it."""
        options = {"allow_head": self.allow_head} if self.method == "GET" else {}
        return web.RouteDef(self.method, self.path, self.handler, options)


_DIGEST = {"digest": ("`sha256:` and 64 hexadecimal digits", "^sha256[:-][0-9a-fA-F]{64}$")}
ROUTES = [
    Route(
        "POST",
        "/api/generate",
        generate.generate,
        Operation(
            "Text generated from a prompt",
            native.GenerateRequest,
            native.GenerateResponse,
            NDJSON,
            early=native.LoadProgressResponse,
            tag="generation",
        ),
    ),
    Route(
        "POST",
        "/api/chat",
        generate.chat,
        Operation(
            "Next message of a conversation",
            native.ChatRequest,
            native.ChatResponse,
            NDJSON,
            early=native.LoadProgressResponse,
            tag="generation",
        ),
    ),
    Route(
        "POST",
        "/api/embed",
        embed.embed,
        Operation(
            "Embeddings of one or more texts, normalized", native.EmbedRequest, native.EmbedResponse, tag="generation"
        ),
    ),
    Route(
        "POST",
        "/api/embeddings",
        embed.embeddings,
        Operation(
            "Embedding of one text, not normalized", native.EmbeddingRequest, native.EmbeddingResponse, tag="generation"
        ),
    ),
    Route(
        "POST",
        "/v1/chat/completions",
        openai.chat_completions,
        Operation(
            "Next message of a conversation",
            openai_wire.ChatCompletionRequest,
            openai_wire.ChatCompletion,
            EVENTS,
            openai_wire.ChatCompletionChunk,
            streams_by_default=False,
            tag="OpenAI",
        ),
    ),
    Route(
        "POST",
        "/v1/completions",
        openai.completions,
        Operation(
            "Text generated from a prompt; with `echo`, also the prompt's own log-probabilities",
            openai_wire.CompletionRequest,
            openai_wire.Completion,
            EVENTS,
            openai_wire.CompletionChunk,
            streams_by_default=False,
            tag="OpenAI",
        ),
    ),
    Route(
        "POST",
        "/v1/embeddings",
        openai.embeddings,
        Operation("Embeddings of one or more texts", openai_wire.EmbedRequest, openai_wire.EmbeddingList, tag="OpenAI"),
    ),
    Route(
        "GET",
        "/v1/models",
        openai.list_models,
        Operation("List local models", answer=openai_wire.ModelList, tag="OpenAI"),
        allow_head=False,
    ),
    Route(
        "GET",
        "/v1/models/{model}",
        openai.retrieve_model,
        Operation("Retrieve one model", answer=openai_wire.Model, parameters={"model": ("name", "")}, tag="OpenAI"),
        allow_head=False,
    ),
    Route("GET", "/api/tags", models.tags, Operation("List local models", answer=native.ListResponse)),
    Route(
        "POST", "/api/show", models.show, Operation("Show details of a model", native.ShowRequest, native.ShowResponse)
    ),
    Route(
        "POST",
        "/api/memory",
        models.memory,
        Operation(
            "Memory that a model would take, by place, without loading it",
            native.MemoryRequest,
            {
                "type": "object",
                "required": [
                    "places",
                    "cache_tokens",
                    "cache_type",
                    "context_length",
                    "num_ctx",
                    "fits",
                    "problem",
                ],
                "properties": {
                    "places": {"type": "array", "items": {"type": "object"}},
                    "cache_tokens": {"type": "integer"},
                    "cache_type": {"type": "string"},
                    "context_length": {"type": "integer"},
                    "num_ctx": {"type": "integer"},
                    "fits": {"type": "boolean"},
                    "problem": {"type": "string"},
                },
            },
        ),
    ),
    Route(
        "GET",
        "/api/ps",
        models.running,
        Operation("List models in memory", answer=native.ProcessResponse),
        allow_head=False,
    ),
    Route(
        "POST",
        "/api/create",
        create.create,
        Operation(
            "Create a model from another one or from uploaded files",
            native.CreateRequest,
            native.ProgressResponse,
            NDJSON,
        ),
    ),
    Route("HEAD", "/api/blobs/{digest}", create.has_blob, Operation("Check whether a blob exists", parameters=_DIGEST)),
    Route(
        "POST",
        "/api/blobs/{digest}",
        create.upload_blob,
        Operation("Upload a blob", "application/octet-stream", parameters=_DIGEST, status=201),
    ),
    Route("POST", "/api/copy", models.copy, Operation("Copy a model to another name", native.CopyRequest)),
    Route("DELETE", "/api/delete", models.delete, Operation("Delete a model", native.DeleteRequest)),
    Route(
        "POST",
        "/api/pull",
        registry.pull,
        Operation("Pull a model from a registry", native.PullRequest, native.ProgressResponse, NDJSON),
    ),
    Route(
        "POST",
        "/api/push",
        registry.push,
        Operation("Push a model to a registry", native.PushRequest, native.ProgressResponse, NDJSON),
    ),
    Route("GET", "/", models.root, Operation("Check that the server is running", answer=TEXT, tag="service")),
    Route(
        "GET",
        "/api/version",
        models.version,
        Operation(
            "Version of Ollama's API that the server implements",
            tag="service",
            answer={"type": "object", "required": ["version"], "properties": {"version": {"type": "string"}}},
        ),
    ),
    Route(
        "GET",
        "/healthz",
        status.health,
        Operation(
            "Health check, with the models in memory",
            tag="service",
            answer={
                "type": "object",
                "required": ["status", "models"],
                "properties": {"status": {"const": "ok"}, "models": {"type": "array", "items": {"type": "string"}}},
            },
        ),
    ),
    Route("GET", "/metrics", status.prometheus, Operation("Metrics in Prometheus format", answer=TEXT, tag="service")),
    Route(
        "GET",
        "/api/devices",
        status.devices,
        Operation(
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
    ),
    Route(
        "GET", "/openapi.json", status.document, Operation("This document", answer={"type": "object"}, tag="service")
    ),
]
for _page in PAGES:
    _file = Operation(f"A file of {_page.path}", answer="*/*", parameters={"file": ("name", "")}, tag="service")
    ROUTES += [
        Route("GET", _page.path, pages.handler(_page), Operation(_page.summary, answer=HTML, tag="service")),
        Route("GET", _page.path + "/{file}", pages.handler(_page), _file),
    ]

OPERATIONS: Operations = {(route.method, route.path): route.operation for route in ROUTES}

"""Routes that turn text into vectors: /api/embed (one or many, of unit length), /api/embeddings (one, as it comes)."""

import time

import numpy as np
from aiohttp import web

from .. import pools
from ..errors import ApiError
from ..generation import embedding
from ..generation.events import nanoseconds
from ..http.responses import json_answer, read
from ..library.names import parse
from ..wire.native import EmbeddingRequest, EmbeddingResponse, EmbedRequest, EmbedResponse


async def embed(request: web.Request) -> web.Response:
    started = time.monotonic()
    found = await answer(request, await read(request, EmbedRequest), started)
    return await pools.run("answers", json_answer, found)  # thousands of numbers must not hold up other clients


async def answer(request: web.Request, ask: EmbedRequest, started: float) -> EmbedResponse:
    """For this API and others. started: time.monotonic() of the request. Raises ApiError, VkbackendError."""
    found = await embedding.embed(
        request,
        ask.model,
        texts(ask.input),
        truncate=ask.truncate is not False,
        dimensions=ask.dimensions,
        options=ask.options,
        keep_alive=ask.keep_alive,
    )
    if not found.vectors:
        return EmbedResponse(model=ask.model, embeddings=[])
    return EmbedResponse(
        ask.model,
        found.vectors,
        nanoseconds(time.monotonic() - started),
        nanoseconds(found.load_seconds),
        found.num_tokens,
    )


def texts(value) -> list[str]:
    """`input` of a request: a text (an empty one is none), or a list of texts."""
    if value is None or value == "":
        return []
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ApiError(400, "invalid input type")
    return found


async def embeddings(request: web.Request) -> web.Response:
    ask = await read(request, EmbeddingRequest)
    if not parse(ask.model).is_valid:
        raise ApiError(400, "model is required")
    found = await embedding.embed(
        request,
        ask.model,
        [ask.prompt] if ask.prompt else [],
        options=ask.options,
        keep_alive=ask.keep_alive,
        normalized=False,
    )
    vector = found.vectors[0].astype(np.float64) if found.vectors else np.zeros(0)
    return json_answer(EmbeddingResponse(vector))


ROUTES = [web.post("/api/embed", embed), web.post("/api/embeddings", embeddings)]

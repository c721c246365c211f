"""Routes for embeddings: /api/embed (one or more texts, normalized), /api/embeddings (one text, not normalized)."""

from aiohttp import web

from .. import pools
from ..generation.embedding import embed_many, embed_one
from ..http.responses import json_answer, read
from ..wire.native import EmbeddingRequest, EmbedRequest
from .app_state import context_of


async def embed(request: web.Request) -> web.Response:
    """POST /api/embed."""
    context = context_of(request)
    found = await embed_many(context, await read(request, EmbedRequest))
    return await pools.run("answers", json_answer, found)  # thousands of numbers must not hold up other clients


async def embeddings(request: web.Request) -> web.Response:
    """POST /api/embeddings."""
    context = context_of(request)
    return json_answer(await embed_one(context, await read(request, EmbeddingRequest)))

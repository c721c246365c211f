"""The OpenAI API: /v1/chat/completions, completions, embeddings, models."""

import functools
from collections.abc import Awaitable, Callable

from aiohttp import web

from .. import pools
from ..errors import ApiError
from ..generation.chat import ChatTurn
from ..generation.completion import CompletionTurn
from ..generation.embedding import embed_many
from ..go import encode
from ..go.human import shortened
from ..http.responses import bound, off_loop, text_answer
from ..http.streams import send_events
from ..library import describe
from ..library.model import InvalidName, ModelNotFound
from ..library.names import parse_name
from ..openai import answers, errors, requests
from ..openai import chat as openai_chat
from ..openai import completions as openai_completions
from ..openai.choices import gather, pieces, whole_answer
from ..wire.content_types import PLAIN_JSON
from ..wire.openai import ChatCompletionRequest, CompletionRequest, EmbedRequest
from . import models
from .app_state import STORE, context_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def in_openai_shape(handler: Handler) -> Handler:
    """Errors before the first byte in the shape that OpenAI's clients know."""

    @functools.wraps(handler)
    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ConnectionError:
            raise  # the client is gone
        except Exception as error:
            return text_answer(*errors.answer(error))

    return answered


async def _answer(make: Callable, *arguments: object) -> web.Response:
    """The JSON of `make(*arguments)`. In a thread: a long one, such as the log-probabilities of a whole context, must
    not hold up other clients.
    """
    body = await pools.run("answers", lambda: (encode.dumps(make(*arguments)) + "\n").encode())
    return web.Response(body=body, headers={"Content-Type": PLAIN_JSON})


@in_openai_shape
async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    context = context_of(request)
    id = answers.new_id("chatcmpl")
    asked = await bound(request, ChatCompletionRequest, requests.read)
    turns = [ChatTurn(ask) for ask in await off_loop(requests.chat_requests, asked)]
    if asked.stream:
        streams = [pieces(context, turn) for turn in turns]
        chunks = openai_chat.chunks(id, streams, requests.includes_usage(asked))
        return await send_events(request, chunks, lambda: openai_chat.broken_chunk(id))
    found = await gather([whole_answer(context, turn) for turn in turns])
    return await _answer(answers.chat_completion, id, found)


@in_openai_shape
async def completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/completions."""
    context = context_of(request)
    id = answers.new_id("cmpl")
    asked = await bound(request, CompletionRequest, requests.read)
    streams = await off_loop(openai_completions.streams, context, asked)
    extras = requests.extras(asked)
    if asked.stream:
        chunks = openai_completions.chunks(id, streams, extras, requests.includes_usage(asked))
        return await send_events(request, chunks, lambda: openai_completions.broken_chunk(id))
    found = await gather([CompletionTurn.whole(stream) for stream in streams])
    return await _answer(openai_completions.whole, id, found, extras)


@in_openai_shape
async def embeddings(request: web.Request) -> web.Response:
    """POST /v1/embeddings."""
    context = context_of(request)
    asked = await bound(request, EmbedRequest, requests.read)
    found = await embed_many(context, requests.embed_request(asked))
    return await _answer(answers.embedding_list, asked.model, found, asked.encoding_format)


@in_openai_shape
async def list_models(request: web.Request) -> web.Response:
    """GET /v1/models."""
    return await _answer(answers.model_list, await pools.run("store", describe.list_models, request.app[STORE]))


@in_openai_shape
async def retrieve_model(request: web.Request) -> web.Response:
    """GET /v1/models/:model."""
    name = shortened(request.match_info["model"])
    try:
        found = await pools.run("store", request.app[STORE].get, parse_name(name))
    except InvalidName:
        raise ApiError(500, models.INVALID_PATH) from None
    except (ModelNotFound, FileNotFoundError):
        raise ApiError(404, f"model '{name}' not found") from None
    return await _answer(answers.model, name, encode.rfc3339_nano(found.modified_at))

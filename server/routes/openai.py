"""The OpenAI API: /v1/chat/completions, completions, embeddings, models."""

import functools
import time
from dataclasses import replace

from aiohttp import web

from .. import pools
from ..errors import ApiError
from ..go import encode
from ..go.human import shortened
from ..http.keys import STORE
from ..http.responses import PLAIN_JSON, bound
from ..library.names import parse
from ..library.store import InvalidName, ModelNotFound
from ..openai import answers, errors, requests, scored
from ..openai import chat as openai_chat
from ..openai import completions as openai_completions
from ..openai.choices import gather, pieces, whole_answer
from ..openai.stream import send_events
from ..wire.openai import ChatCompletionRequest, CompletionRequest, EmbedRequest
from . import chat, generate, models
from .embed import answer


def in_openai_shape(handler):
    """Errors before the first byte as OpenAI's clients know them."""

    @functools.wraps(handler)
    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ConnectionError:
            raise  # the client is gone
        except Exception as error:
            return errors.answer(error)

    return answered


async def _answer(make, *arguments) -> web.Response:
    """What `make(*arguments)` gives. A long one, such as the log-probabilities of a whole context, must not hold up
    other clients.
    """
    body = await pools.run("answers", lambda: (encode.dumps(make(*arguments)) + "\n").encode())
    return web.Response(body=body, headers={"Content-Type": PLAIN_JSON})


def _includes_usage(asked) -> bool:
    return asked.stream_options is not None and asked.stream_options.include_usage


@in_openai_shape
async def chat_completions(request: web.Request) -> web.StreamResponse:
    started, id = time.monotonic(), answers.new_id("chatcmpl")
    asked = await bound(request, ChatCompletionRequest, requests.read)
    ask, extras = requests.chat_request(asked), requests.extras(asked)
    asks = [requests.of_choice(ask, extras, number) for number in range(extras.num_choices)]
    if asked.stream:
        chunks = openai_chat.chunks(id, [pieces(chat, request, one, started) for one in asks], _includes_usage(asked))
        return await send_events(request, chunks, lambda: openai_chat.broken_chunk(id))
    found = await gather([whole_answer(chat, request, one, started) for one in asks])
    return await _answer(answers.chat_completion, id, found)


@in_openai_shape
async def completions(request: web.Request) -> web.StreamResponse:
    started, id = time.monotonic(), answers.new_id("cmpl")
    asked = await bound(request, CompletionRequest, requests.read)
    ask, extras = requests.generate_request(asked), requests.extras(asked)
    if extras.logprobs is not None:
        ask = replace(ask, logprobs=True, top_logprobs=extras.logprobs)
    asks = [requests.of_choice(ask, extras, number) for number in range(extras.num_choices)]
    prompts = requests.prompts(asked.prompt, extras.num_choices)
    streams = [
        scored.answers(request, one, prompt, extras, started)
        if asked.echo or asked.raw or not isinstance(prompt, str)
        else pieces(generate, request, replace(one, prompt=prompt), started)
        for prompt in prompts
        for one in asks
    ]
    if asked.stream:
        chunks = openai_completions.chunks(id, streams, extras, _includes_usage(asked))
        return await send_events(request, chunks, lambda: openai_completions.broken_chunk(id))
    return await _answer(
        openai_completions.whole, id, await gather([generate.whole(stream) for stream in streams]), extras
    )


@in_openai_shape
async def embeddings(request: web.Request) -> web.Response:
    started = time.monotonic()
    asked = await bound(request, EmbedRequest, requests.read)
    found = await answer(request, requests.embed_request(asked), started)
    return await _answer(answers.embedding_list, asked.model, found, asked.encoding_format)


@in_openai_shape
async def list_models(request: web.Request) -> web.Response:
    return await _answer(answers.model_list, await pools.run("store", models.list_models, request.app[STORE]))


@in_openai_shape
async def retrieve_model(request: web.Request) -> web.Response:
    name = shortened(request.match_info["model"])
    try:
        found = await pools.run("store", request.app[STORE].get, parse(name))
    except InvalidName:
        raise ApiError(500, models.INVALID_PATH) from None
    except (ModelNotFound, FileNotFoundError):
        raise ApiError(404, f"model '{name}' not found") from None
    return await _answer(answers.model, name, encode.rfc3339_nano(found.modified_at))


ROUTES = [
    web.post("/v1/chat/completions", chat_completions),
    web.post("/v1/completions", completions),
    web.post("/v1/embeddings", embeddings),
    web.get("/v1/models", list_models, allow_head=False),
    web.get("/v1/models/{model}", retrieve_model, allow_head=False),
]

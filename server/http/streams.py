"""Sends what a generation answers: NDJSON lines, server-sent events, or one JSON object.

In: answers as dataclasses of `wire/`. Out: aiohttp responses. The first part of a stream is encoded before the
response begins, so an error until then is an answer with a status of its own.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing

from aiohttp import web

from vkbackend.errors import VkbackendError

from .. import pools
from ..errors import CLIENT_CLOSED_REQUEST, ApiError
from ..generation.turn import Replies
from ..go import encode
from ..wire.content_types import PLAIN_JSON
from .line_stream import LineStream
from .responses import error_answer, json_answer
from .running import SHUTTING_DOWN, was_cut_off

log = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"
LONG_CONTEXT = 4096  # token ids: a fraction of a millisecond


def has_left(request: web.Request) -> bool:
    """Whether the client has closed its connection."""
    return request.transport is None or request.transport.is_closing()


async def send(
    request: web.Request,
    lines: LineStream,
    replies: AbstractAsyncContextManager[Replies],
    streams: bool,
    whole: Callable[[AsyncGenerator], Awaitable[object]],
) -> web.StreamResponse:
    """Send an answer of the native API. lines: the stream, which may have begun with lines of progress; `whole` makes
    one answer of all pieces.

    Raises what `replies` and `whole` raise unless the stream has begun: the error is then its last line.
    """
    try:
        async with replies as found:
            if found.pieces is None:
                if lines.has_begun:
                    return await _send_lines(request, lines, _only(found.single))
                return await pools.run("answers", json_answer, found.single)  # it may show a long prompt
            if streams:
                return await _send_lines(request, lines, found.pieces)
            # Thousands of log-probabilities must not hold up other clients.
            return await pools.run("answers", json_answer, await whole(found.pieces))
    except (ApiError, VkbackendError) as error:
        if not lines.has_begun:
            raise
        await lines.write({"error": error_text(error)})
        return await lines.end()


async def _only(answer: object) -> AsyncGenerator[object, None]:
    yield answer


async def _encoded(answer: object) -> str:
    """An answer's JSON text, made in a thread if it holds a long context: that must not hold up other clients."""
    if len(getattr(answer, "context", None) or ()) > LONG_CONTEXT:
        return await pools.run("answers", encode.dumps, answer)
    return encode.dumps(answer)


async def _send_lines(request: web.Request, lines: LineStream, answers: AsyncGenerator) -> web.StreamResponse:
    """One JSON line per answer. An error before the first line is the answer, with a status; a later one is the last
    line.
    """
    async with aclosing(answers):
        try:
            first = await _encoded(await anext(answers))
        except (ApiError, VkbackendError) as error:
            if lines.has_begun:
                raise
            return error_answer(error.status if isinstance(error, ApiError) else 500, error_text(error), PLAIN_JSON)
        try:
            await lines.write_text(first)
            async for answer in answers:
                await lines.write_text(await _encoded(answer))
        except ConnectionError:
            raise
        except asyncio.CancelledError:
            if not was_cut_off(request):
                raise
            await lines.write({"error": SHUTTING_DOWN})
        except Exception as error:
            if not _client_is_gone(error):
                await lines.write({"error": error_text(error)})
        return await lines.end()


async def send_events(
    request: web.Request, chunks: AsyncGenerator, broken_chunk: Callable[[], object]
) -> web.StreamResponse:
    """Send server-sent events: each chunk a `data:` line, `[DONE]` last.

    Raises an error before the first chunk. After a later one `broken_chunk()`, without model and text, is the last
    chunk and `[DONE]` does not come, as in Ollama 0.12.11.
    """
    async with aclosing(chunks):
        first = await pools.run("answers", encode.dumps, await anext(chunks))  # it may hold a long prompt
        response = web.StreamResponse(headers={"Content-Type": EVENT_STREAM})
        await response.prepare(request)
        try:
            await _send_event(response, first)
            async for chunk in chunks:
                await _send_event(response, encode.dumps(chunk))
            await _send_event(response, "[DONE]")
        except ConnectionError:
            raise
        except asyncio.CancelledError:
            if not was_cut_off(request):
                raise
            await _send_event(response, encode.dumps(broken_chunk()))
        except Exception as error:
            if not _client_is_gone(error):
                is_foreseen = isinstance(error, (ApiError, VkbackendError))
                text = error_text(error)
                log.error("%s: the stream broke off: %s", request.path, text, exc_info=None if is_foreseen else error)
                await _send_event(response, encode.dumps(broken_chunk()))
        await response.write_eof()
        return response


async def _send_event(response: web.StreamResponse, text: str) -> None:
    await response.write(f"data: {text}\n\n".encode())


def _client_is_gone(error: Exception) -> bool:
    return isinstance(error, ApiError) and error.status == CLIENT_CLOSED_REQUEST


def error_text(error: Exception) -> str:
    """The text that a client gets. Errors of the project are their own text; others get the name of their class."""
    if isinstance(error, ApiError):
        return error.message
    return str(error) if isinstance(error, VkbackendError) else f"{type(error).__name__}: {error}"

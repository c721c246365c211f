"""Answers on their way to the client: a stream of JSON lines, or one JSON object.

In: answers as dataclasses of wire/native.py. Out: aiohttp responses.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from aiohttp import web

from vkbackend.errors import VkbackendError

from .. import pools
from ..errors import CLIENT_CLOSED_REQUEST, ApiError
from ..go import encode
from .responses import NDJSON, PLAIN_JSON, error_answer, json_answer
from .running import SHUTTING_DOWN, was_cut_off


@dataclass
class Replies:
    """What a request is answered with: `single`, where nothing is generated (a model loaded, a prompt shown), else
    `pieces`, whose last one has the figures.
    """

    single: object = None
    pieces: AsyncIterator | None = None

    @property
    def is_single(self) -> bool:
        return self.pieces is None


def has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


# Of a request: its response, where lines were sent before the answer. Older releases of aiohttp have plain keys only.
_BEGUN = web.RequestKey("begun stream", web.StreamResponse) if hasattr(web, "RequestKey") else "begun stream"


def has_begun(request: web.Request) -> bool:
    return _BEGUN in request


async def write_early(request: web.Request, line: object) -> None:
    """A line of the stream before the first answer."""
    await _write_line(await _stream_of(request), line)


async def end_early(request: web.Request, error: Exception) -> web.StreamResponse:
    """An error as the last line of a stream that has begun."""
    response = await _stream_of(request)
    await _write_line(response, {"error": error_text(error)})
    await response.write_eof()
    return response


async def _stream_of(request: web.Request) -> web.StreamResponse:
    """The response to a request that is a stream, which begins where it has not."""
    if _BEGUN not in request:
        response = web.StreamResponse(headers={"Content-Type": NDJSON})
        await response.prepare(request)
        request[_BEGUN] = response
    return request[_BEGUN]


async def send(request: web.Request, found: Replies, streams: bool, whole: Callable) -> web.StreamResponse:
    """The native answer; `whole(pieces)` makes one answer of all. One with thousands of log-probabilities must not
    hold up other clients.
    """
    if found.is_single and has_begun(request):
        return await send_stream(request, _only(found.single))
    if found.is_single:
        return await pools.run("answers", json_answer, found.single)  # it may show a long prompt
    if streams:
        return await send_stream(request, found.pieces)
    return await pools.run("answers", json_answer, await whole(found.pieces))


async def _only(answer) -> AsyncIterator:
    yield answer


async def send_stream(request: web.Request, answers: AsyncIterator) -> web.StreamResponse:
    """One JSON line per answer. An error before the first answer is the answer, with a status; a later one is the
    last line.
    """
    async with aclosing(answers):
        try:
            first = await anext(answers)
        except (ApiError, VkbackendError) as error:
            if has_begun(request):
                return await end_early(request, error)
            return error_answer(error.status if isinstance(error, ApiError) else 500, error_text(error), PLAIN_JSON)
        response = await _stream_of(request)
        try:
            await _write_line(response, first)
            async for answer in answers:
                await _write_line(response, answer)
        except ConnectionError:
            raise
        except asyncio.CancelledError:
            if not was_cut_off(request):
                raise
            await _write_line(response, {"error": SHUTTING_DOWN})
        except Exception as error:
            if not (isinstance(error, ApiError) and error.status == CLIENT_CLOSED_REQUEST):
                await _write_line(response, {"error": error_text(error)})
        await response.write_eof()
        return response


async def _write_line(response, answer):
    await response.write(encode.dumps(answer).encode() + b"\n")


def error_text(error: Exception) -> str:
    """What a client is told. Errors raised on purpose speak for themselves, others are named."""
    if isinstance(error, ApiError):
        return error.message
    return str(error) if isinstance(error, VkbackendError) else f"{type(error).__name__}: {error}"

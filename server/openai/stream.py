"""Server-sent events: each chunk a `data:` line, `[DONE]` last.

In: an asynchronous iterator of chunks. Out: the response. An error before the first chunk is the answer, with a
status; after a later one the stream says no more: a chunk without model and text is its last, and `[DONE]` does not
come, as in Ollama 0.12.11.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from aiohttp import web

from .. import pools
from ..errors import CLIENT_CLOSED_REQUEST, ApiError
from ..go import encode
from ..http.running import was_cut_off
from . import errors

log = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"


async def send_events(
    request: web.Request, chunks: AsyncIterator, broken_chunk: Callable[[], object]
) -> web.StreamResponse:
    """`broken_chunk()` is what a stream ends with that cannot go on. An error before the first chunk is raised."""
    async with aclosing(chunks):
        first = await anext(chunks)
        response = web.StreamResponse(headers={"Content-Type": EVENT_STREAM})
        await response.prepare(request)
        try:
            await _send(response, await pools.run("answers", encode.dumps, first))  # it may hold a long prompt
            async for chunk in chunks:
                await _send(response, encode.dumps(chunk))
            await _send(response, "[DONE]")
        except ConnectionError:
            raise
        except asyncio.CancelledError:
            if not was_cut_off(request):
                raise
            await _send(response, encode.dumps(broken_chunk()))
        except Exception as error:
            if not (isinstance(error, ApiError) and error.status == CLIENT_CLOSED_REQUEST):
                log.error("%s: the stream broke off: %s", request.path, errors.status_and_text(error)[1])
                await _send(response, encode.dumps(broken_chunk()))
        await response.write_eof()
        return response


async def _send(response, text):
    await response.write(f"data: {text}\n\n".encode())

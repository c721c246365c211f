"""Engine events -> answers on the wire: a stream of JSON lines, or one JSON object with the whole answer.

In: an engine and a request for it; answers as dataclasses of messages.py. Out: aiohttp responses. A client that goes away, or an error
in the middle, cancels the generation.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import AsyncIterator, Callable

from aiohttp import web
from vkbackend.engine.sequence import Event, Failed, Finished, GenerationRequest, TokenLogprob
from vkbackend.errors import VkbackendError

from . import go_json, messages, pools
from .answers import NDJSON, PLAIN_JSON, error_answer, json_answer
from .errors import CLIENT_CLOSED_REQUEST, ApiError
from .service import metrics
from .service.running import SHUTTING_DOWN, was_cut_off

MOST_EVENTS = 256  # of a generation that nobody has taken; more make it pause
GONE_CHECK_SECONDS = 0.5  # how soon a client's leaving is seen while no token comes


@dataclass
class Replies:
    """What a request is answered with: `single`, where nothing is generated (a model loaded, a prompt shown), else `pieces`, whose last one has
    the figures."""

    single: object = None
    pieces: AsyncIterator | None = None

    @property
    def is_single(self) -> bool:
        return self.pieces is None


def has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


class _Events:
    """Events of one generation on their way from the engine's thread to the event loop. is_full: nobody takes them, so the generation pauses."""

    def __init__(self):
        self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue()
        self._num_sent = self._num_taken = 0  # the first of the engine's thread alone, the second of the loop's
        self._was_full = False

    def __call__(self, event):
        if isinstance(event, Finished):
            metrics.count_generation(event)
        self._num_sent += 1
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    @property
    def is_full(self) -> bool:
        """Asked by the engine's thread. Once full, until it is half empty: a generation that starts again may have to run some tokens again."""
        self._was_full = self._num_sent - self._num_taken >= (MOST_EVENTS // 2 if self._was_full else MOST_EVENTS)
        return self._was_full

    async def get(self) -> Event:
        event = await self._queue.get()
        self._num_taken += 1
        return event

    def has_room_again(self) -> bool:
        """Whether the engine's thread may have to look again."""
        return self._was_full and self._num_sent - self._num_taken < MOST_EVENTS // 2


async def engine_events(engine, generation: GenerationRequest, client_left: Callable[[], bool] = lambda: False) -> AsyncIterator[Event]:
    """Pieces and one Finished. Raises what a Failed holds, and ApiError 499 once the client has left; ends the generation when closed."""
    events = _Events()
    handle = await _submitted(engine, generation, events)
    try:
        while True:
            try:
                async with asyncio.timeout(GONE_CHECK_SECONDS):  # unlike wait_for, never loses a cancellation
                    event = await events.get()
            except TimeoutError:
                event = None
            if client_left():
                raise ApiError(CLIENT_CLOSED_REQUEST, "the client closed the request")
            if isinstance(event, Failed):
                raise event.exception
            if event is not None:
                if events.has_room_again():
                    handle.wake()
                yield event
            if isinstance(event, Finished):
                return
    finally:
        handle.cancel()


async def _submitted(engine, generation: GenerationRequest, listener):
    """The handle of a generation that was begun. A format is compiled for it, which must not hold up other clients."""
    if not generation.format:
        return engine.submit(generation, listener)
    handles, is_abandoned = [], False

    def submit():
        handles.append(engine.submit(generation, listener))
        if is_abandoned:
            handles[0].cancel()

    try:
        await pools.run("formats", submit)
    except BaseException:
        is_abandoned = True
        for handle in handles:
            handle.cancel()
        raise
    return handles[0]


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
    """The native answer; `whole(pieces)` makes one answer of all. One with thousands of log-probabilities must not hold up other clients."""
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
    """One JSON line per answer. An error before the first answer is the answer, with a status; a later one is the last line."""
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
    await response.write(go_json.dumps(answer).encode() + b"\n")


def error_text(error: Exception) -> str:
    """What a client is told. Errors raised on purpose speak for themselves, others are named."""
    if isinstance(error, ApiError):
        return error.message
    return str(error) if isinstance(error, VkbackendError) else f"{type(error).__name__}: {error}"


async def collect(answers: AsyncIterator) -> tuple[list, object]:
    """(the answers before the last, the last)"""
    async with aclosing(answers):
        everything = [answer async for answer in answers]
    return everything[:-1], everything[-1]


def logprobs(tokens: list[TokenLogprob]) -> list[messages.Logprob]:
    """Log-probabilities as the API shows them."""
    return [messages.Logprob(token.text, token.logprob, list(token.bytes), [
        messages.TokenLogprob(other.text, other.logprob, list(other.bytes)) for other in token.top]) for token in tokens]


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)

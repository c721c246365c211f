"""Engine events -> answers on the wire: a stream of JSON lines, or one JSON object with the whole answer.

In: an engine and a request for it; answers as dataclasses of messages.py. Out: aiohttp responses. A client that goes
away, or an error in the middle, cancels the generation.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from vkbackend.engine.request import Event, Failed, Finished, GenerationRequest, TokenLogprob

from .. import pools
from ..errors import CLIENT_CLOSED_REQUEST, ApiError
from ..http import metrics
from ..wire import native

MOST_EVENTS = 256  # of a generation that nobody has taken; more make it pause
GONE_CHECK_SECONDS = 0.5  # how soon a client's leaving is seen while no token comes


class _Events:
    """Events of one generation on their way from the engine's thread to the event loop. is_full: nobody takes them,
    so the generation pauses.
    """

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
        """Asked by the engine's thread. Once full, until it is half empty: a generation that starts again may have
        to run some tokens again.
        """
        self._was_full = self._num_sent - self._num_taken >= (MOST_EVENTS // 2 if self._was_full else MOST_EVENTS)
        return self._was_full

    async def get(self) -> Event:
        event = await self._queue.get()
        self._num_taken += 1
        return event

    def has_room_again(self) -> bool:
        """Whether the engine's thread may have to look again."""
        return self._was_full and self._num_sent - self._num_taken < MOST_EVENTS // 2


async def engine_events(
    engine, generation: GenerationRequest, client_left: Callable[[], bool] = lambda: False
) -> AsyncIterator[Event]:
    """Pieces and one Finished. Raises what a Failed holds, and ApiError 499 once the client has left; ends the
    generation when closed.
    """
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


async def collect(answers: AsyncIterator) -> tuple[list, object]:
    """(the answers before the last, the last)"""
    async with aclosing(answers):
        everything = [answer async for answer in answers]
    return everything[:-1], everything[-1]


def logprobs(tokens: list[TokenLogprob]) -> list[native.Logprob]:
    """Log-probabilities as the API shows them."""
    return [
        native.Logprob(
            token.text,
            token.logprob,
            list(token.bytes),
            [native.TokenLogprob(other.text, other.logprob, list(other.bytes)) for other in token.top],
        )
        for token in tokens
    ]


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)

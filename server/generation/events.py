"""Events of a generation, from the engine's thread to the event loop.

In: an engine and a request for it. Out: an asynchronous iterator of events. Closing it, an error, or a client that
leaves cancels the generation.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from vkbackend.engine.request import Event, Failed, Finished, GenerationRequest, ScoredToken

from .. import metrics, pools
from ..errors import CLIENT_CLOSED_REQUEST, ApiError
from ..wire import native

if TYPE_CHECKING:  # commands that generate nothing start without the engine
    from vkbackend.engine.engine import Engine, Handle

LONG_PROMPT = 8192  # tokens: some milliseconds
MOST_EVENTS = 256  # that wait to be taken; more pause the generation
GONE_CHECK_SECONDS = 0.5  # how soon a client that left is noticed while no token comes


class _Events:
    """Events of one generation on their way to the event loop; the engine calls it as its listener."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._num_sent = 0  # written by the engine's thread alone
        self._num_taken = 0  # written by the event loop alone
        self._was_full = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Finished):
            metrics.count_generation(event)
        self._num_sent += 1
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    def is_full(self) -> bool:
        """Whether the generation should pause; the engine's thread asks. Stays true until the queue is half empty,
        because a generation that resumes may have to run some tokens again.
        """
        self._was_full = self._num_sent - self._num_taken >= (MOST_EVENTS // 2 if self._was_full else MOST_EVENTS)
        return self._was_full

    async def get(self) -> Event:
        event = await self._queue.get()
        self._num_taken += 1
        return event

    def has_room_again(self) -> bool:
        """Whether a paused generation can resume, so that the engine should look again."""
        return self._was_full and self._num_sent - self._num_taken < MOST_EVENTS // 2


async def engine_events(
    engine: "Engine", generation: GenerationRequest, client_left: Callable[[], bool] = lambda: False
) -> AsyncGenerator[Event, None]:
    """Run a generation: its pieces, then one Finished. Closing the iterator cancels the generation.

    Raises the exception of a Failed event, and ApiError 499 once the client has left.
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


async def _submitted(engine: "Engine", generation: GenerationRequest, listener: _Events) -> "Handle":
    """Submit; in a thread if a format has to be compiled or the prompt is long, as this must not hold up other
    clients.
    """
    if not generation.format and len(generation.prompt) <= LONG_PROMPT:
        return engine.submit(generation, listener, listener.is_full)
    handles: list[Handle] = []
    is_abandoned = False

    def submit() -> None:
        handles.append(engine.submit(generation, listener, listener.is_full))
        if is_abandoned:
            handles[0].cancel()

    try:
        await pools.run("formats" if generation.format else pools.of_prompt(), submit)
    except BaseException:
        is_abandoned = True
        for handle in handles:
            handle.cancel()
        raise
    return handles[0]


def logprobs(tokens: list[ScoredToken]) -> list[native.Logprob]:
    """The engine's log-probabilities as the API shows them."""
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
    """A duration as the API shows it."""
    return int(seconds * 1_000_000_000)

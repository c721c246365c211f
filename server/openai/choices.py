"""Several answers to one request, generated concurrently in the engine's shared steps.

In: asynchronous generators of native answers, one per choice. Each acquires and releases its model on its own; none
waits for a model while it holds one, so they cannot deadlock. Out: their items as they arrive, or the whole answers.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import TypeVar

from ..generation.request_context import RequestContext
from ..generation.turn import Turn, replies

T = TypeVar("T")
MAX_WAITING = 64  # items in the queue; when it is full, the streams wait


async def whole_answer(context: RequestContext, turn: Turn) -> object:
    """The whole answer of one turn of the native API."""
    async with replies(context, turn) as found:
        return found.single if found.pieces is None else await turn.whole(found.pieces)


async def pieces(context: RequestContext, turn: Turn) -> AsyncGenerator:
    """The answers of one turn, one by one."""
    async with replies(context, turn) as found:
        if found.pieces is None:
            yield found.single
            return
        async with aclosing(found.pieces):
            async for piece in found.pieces:
                yield piece


async def interleave(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T]]:
    """(number of the stream, its next item) of all streams, in the order in which items arrive.

    The first error ends all streams and is raised; closing this generator ends them, too.
    """
    queue: asyncio.Queue[tuple[int, T | None, Exception | None]] = asyncio.Queue(MAX_WAITING)

    async def follow(number: int, stream: AsyncGenerator[T]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    await queue.put((number, item, None))
            await queue.put((number, None, None))
        except Exception as error:
            await queue.put((number, None, error))

    tasks = [asyncio.create_task(follow(number, stream)) for number, stream in enumerate(streams)]
    num_running = len(streams)
    try:
        while num_running:
            number, item, error = await queue.get()
            if error is not None:
                raise error
            if item is None:
                num_running -= 1
            else:
                yield number, item
    finally:
        await _end(tasks)


async def gather(answers: Sequence[Awaitable[T]]) -> list[T]:
    """Await all answers. The first error ends the others and is raised."""
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def _end(tasks: Sequence[asyncio.Future]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

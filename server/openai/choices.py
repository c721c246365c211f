"""Several answers to one request, made side by side: the engine computes them together.

In: asynchronous iterators of native answers, one per choice, each of which takes and gives back its model by itself:
none waits for the model while it holds it, so that they cannot wait for each other. Out: their items as they come,
or each one's whole answer.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing

MOST_WAITING = 64  # items that nobody has taken; then the streams wait


async def whole_answer(native, request, ask, started: float):
    """The answer of one run of `native`, which is routes/chat.py or routes/generate.py."""
    async with native.replies(request, ask, started) as found:
        return found.single if found.is_single else await native.whole(found.pieces)


async def pieces(native, request, ask, started: float) -> AsyncIterator:
    """Its answers one by one."""
    async with native.replies(request, ask, started) as found:
        if found.is_single:
            yield found.single
            return
        async with aclosing(found.pieces):
            async for piece in found.pieces:
                yield piece


async def interleave(streams: list[AsyncIterator]) -> AsyncIterator[tuple[int, object]]:
    """(number of the stream, its next item). The first error of any ends all and is raised; closing this iterator
    ends all, too.
    """
    queue = asyncio.Queue(MOST_WAITING)

    async def follow(number, stream):
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


async def gather(answers: list[Awaitable]) -> list:
    """All of them; the first error ends the others and is raised."""
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def _end(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""How far a model is loaded, told to the clients that ask for it: lines of JSON in front of the answer's stream.

In: a request with `load_progress`, whichever request the load was begun for. Out: the loaded model, and a response
that may have begun.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import AsyncContextManager

from aiohttp import web

from vkbackend.errors import VkbackendError

from ..errors import ApiError
from ..http.keys import LOADED_MODELS
from ..http.streams import Replies, end_early, has_begun, send, write_early
from ..library.store import StoredModel
from ..wire.native import ChatRequest, GenerateRequest, LoadProgressResponse
from ..wire.options import Options

SECONDS = 0.1  # between two lines at least


@asynccontextmanager
async def acquire(
    request: web.Request, ask: GenerateRequest | ChatRequest, stored: StoredModel, options: Options
) -> AsyncIterator:
    """`LoadedModels.acquire` for a request; meanwhile lines, where it asks for them and streams."""
    acquired = request.app[LOADED_MODELS].acquire(stored, options, ask.keep_alive)
    if not ask.load_progress or ask.stream is False:
        async with acquired as model:
            yield model
        return
    async with AsyncExitStack() as stack:
        entering = asyncio.ensure_future(stack.enter_async_context(acquired))
        try:
            await _tell(request, ask.model, stored, entering)
            model = await entering
        finally:
            if not entering.done():
                entering.cancel()
                await asyncio.wait([entering])
        yield model


async def _tell(request: web.Request, name: str, stored: StoredModel, entering: asyncio.Future) -> None:
    """A line each time that more of the model is there, and one when all of it is."""
    loaded_models, told = request.app[LOADED_MODELS], (0, 0)
    earlier = None if loaded_models.is_loading(stored) else loaded_models.progress
    while True:
        await asyncio.wait([entering], timeout=SECONDS)
        if entering.done() and entering.exception() is not None:
            return
        progress = loaded_models.progress
        is_ours = progress is not earlier and loaded_models.progress_path == stored.gguf_path
        now = (progress.total, progress.completed) if is_ours else (0, 0)
        if now[0] and now != told and not _is_behind(request):
            told = now
            await write_early(request, LoadProgressResponse(name, "loading model", *now))
        if entering.done():
            return


def _is_behind(request: web.Request) -> bool:
    """Whether earlier lines still wait for their reader, who is then spared further ones."""
    return request.transport is not None and request.transport.get_write_buffer_size() > 0


async def answered(
    request: web.Request, replies: AsyncContextManager[Replies], streams: bool, whole: Callable
) -> web.StreamResponse:
    """The native answer. An error behind lines of progress is a line, too: their status was sent already."""
    try:
        async with replies as found:
            return await send(request, found, streams, whole)
    except (ApiError, VkbackendError) as error:
        if not has_begun(request):
            raise
        return await end_early(request, error)

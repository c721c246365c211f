"""Lines of JSON that show how far a model is loaded, in front of the answer's stream, for clients that ask for them.

In: a request with `load_progress`, whichever request began the load. Out: the loaded model, and a stream that may
have begun.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from ..library.model import StoredModel
from ..loading.loaded_model import LoadedModel
from ..loading.loaded_models import LoadedModels
from ..wire.native import ChatRequest, GenerateRequest, LoadProgressResponse
from ..wire.options import Options
from .request_context import Lines, RequestContext

SECONDS = 0.1  # between two lines, at least


@asynccontextmanager
async def acquire(
    context: RequestContext, ask: GenerateRequest | ChatRequest, stored: StoredModel, options: Options
) -> AsyncIterator[LoadedModel]:
    """`LoadedModels.acquire` for a request. If it streams and asks for them, lines of progress
    come meanwhile.
    """
    acquired = context.loaded_models.acquire(stored, options, ask.keep_alive)
    if context.lines is None or not ask.load_progress or ask.stream is False:
        async with acquired as model:
            yield model
        return
    async with AsyncExitStack() as stack:
        entering = asyncio.ensure_future(stack.enter_async_context(acquired))
        try:
            await _report(context.lines, context.loaded_models, ask.model, stored, entering)
            model = await entering
        finally:
            if not entering.done():
                entering.cancel()
                await asyncio.wait([entering])
        yield model


async def _report(
    lines: Lines, loaded_models: LoadedModels, name: str, stored: StoredModel, entering: asyncio.Future
) -> None:
    """Write a line whenever more of the model is loaded, and one when all of it is."""
    sent = (0, 0)
    earlier = None if loaded_models.is_loading(stored) else loaded_models.progress
    while True:
        await asyncio.wait([entering], timeout=SECONDS)
        if entering.done() and entering.exception() is not None:
            return
        progress = loaded_models.progress
        is_ours = progress is not earlier and loaded_models.progress_path == stored.gguf_path
        now = (progress.total, progress.completed) if is_ours else (0, 0)
        if now[0] and now != sent and not lines.is_behind:
            sent = now
            await lines.write(LoadProgressResponse(name, "loading model", *now))
        if entering.done():
            return

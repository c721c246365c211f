"""POST /api/chat: a conversation, and the assistant's next message."""

import time
from contextlib import asynccontextmanager

from aiohttp import web

from .. import pools
from ..errors import ApiError
from ..generation import load_progress
from ..generation.chat import Turn
from ..generation.events import collect
from ..generation.plan import check_format, check_images, check_top_logprobs, make_plan, refuse_think_level
from ..go.encode import now
from ..http import limits
from ..http.keys import LOADED_MODELS, STORE
from ..http.responses import read
from ..http.streams import Replies
from ..library.names import parse
from ..wire.native import ChatRequest, ChatResponse, DebugInfo, Message


async def chat(request: web.Request) -> web.StreamResponse:
    started = time.monotonic()
    ask = await read(request, ChatRequest)
    return await load_progress.answered(request, replies(request, ask, started), ask.stream is not False, whole)


@asynccontextmanager
async def replies(request: web.Request, ask: ChatRequest, started: float):
    """A context manager giving `streaming.Replies` of ChatResponse, for this API and others; the model stays loaded
    within it.

    started: time.monotonic() of the request. Raises ApiError, ModelNotFound and VkbackendError before anything is
    generated.
    """
    check_top_logprobs(ask)
    limits.check(ask)
    if not parse(ask.model).is_valid:
        raise ApiError(400, "model is required")
    stored = request.app[STORE].get(ask.model)
    loaded_models = request.app[LOADED_MODELS]
    if not ask.messages and ask.keep_alive == 0:
        await loaded_models.expire(stored)
        yield Replies(single=empty_answer(ask, "unload"))
        return
    plan = await make_plan(stored, ask, ["tools"] if ask.tools else [], "chat", started)
    async with load_progress.acquire(request, ask, stored, plan.options) as model:
        if not ask.messages:
            yield Replies(single=empty_answer(ask, "load"))
            return
        pool = pools.of_prompt()  # a long prompt must not hold up other clients
        turn = await pools.run(pool, Turn, ask, plan, model)
        rendered = await pools.run(pool, turn.write_prompt)
        if ask.debug_render_only:
            debug = DebugInfo(rendered.text, len(rendered.images))
            yield Replies(single=ChatResponse(model=ask.model, created_at=now(), debug_info=debug))
            return
        refuse_think_level(ask, stored)
        check_format(ask.format, ask.stream is not False)
        check_images(plan, len(rendered.images))
        yield Replies(pieces=turn.answers(await pools.run(pool, turn.begin, rendered.text, request)))


def empty_answer(ask: ChatRequest, reason: str) -> ChatResponse:
    return ChatResponse(
        model=ask.model, created_at=now(), message=Message(role="assistant"), done=True, done_reason=reason
    )


async def whole(pieces) -> ChatResponse:
    """All answers in one."""
    before, last = await collect(pieces)
    everything = [*before, last]
    last.message = Message(
        role="assistant",
        content="".join(piece.message.content for piece in everything),
        thinking="".join(piece.message.thinking for piece in everything),
        tool_calls=[call for piece in everything for call in piece.message.tool_calls or ()],
    )
    last.logprobs = [logprob for piece in everything for logprob in piece.logprobs or ()]
    return last


ROUTES = [web.post("/api/chat", chat)]

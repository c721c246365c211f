"""POST /api/generate: a prompt, put into the model's template or taken as it is, and the text that goes on from it."""

import time
from contextlib import asynccontextmanager

from aiohttp import web

from .. import pools
from ..errors import ApiError
from ..generation import load_progress
from ..generation.completion import answers, make_parser, write_prompt
from ..generation.events import collect
from ..generation.plan import check_format, check_images, check_top_logprobs, make_plan, refuse_think_level
from ..generation.run import Run
from ..go.encode import now
from ..http import limits
from ..http.keys import LOADED_MODELS, STORE
from ..http.responses import read
from ..http.streams import Replies
from ..library.store import InvalidName
from ..wire.native import DebugInfo, GenerateRequest, GenerateResponse


async def generate(request: web.Request) -> web.StreamResponse:
    started = time.monotonic()
    ask = await read(request, GenerateRequest)
    return await load_progress.answered(request, replies(request, ask, started), ask.stream is not False, whole)


@asynccontextmanager
async def replies(request: web.Request, ask: GenerateRequest, started: float):
    """A context manager giving `streaming.Replies` of GenerateResponse, for this API and others; the model stays
    loaded within it.

    started: time.monotonic() of the request. Raises ApiError, ModelNotFound and VkbackendError before anything is
    generated.
    """
    check_top_logprobs(ask)
    limits.check(ask)
    try:
        stored = request.app[STORE].get(ask.model)
    except InvalidName:
        raise ApiError(404, f"model '{ask.model}' not found") from None
    loaded_models = request.app[LOADED_MODELS]
    if not ask.prompt and ask.keep_alive == 0:
        await loaded_models.expire(stored)
        yield Replies(single=empty_answer(ask, "unload"))
        return
    if ask.raw and (ask.template or ask.system or ask.context):
        raise ApiError(400, "raw mode does not support template, system, or context")
    refuse_think_level(ask, stored)
    plan = await make_plan(stored, ask, ["insert"] if ask.suffix else [], "generate", started)
    async with load_progress.acquire(request, ask, stored, plan.options) as model:
        if not ask.prompt:
            yield Replies(single=empty_answer(ask, "load"))
            return
        pool = "long prompts" if ask.template else pools.of_prompt()
        rendered = await pools.run(pool, write_prompt, ask, plan, model)  # a long prompt must not hold up other clients
        if ask.debug_render_only:
            debug = DebugInfo(rendered.text, len(rendered.images))
            yield Replies(single=GenerateResponse(model=ask.model, created_at=now(), debug_info=debug))
            return
        check_format(ask.format, ask.stream is not False)
        check_images(plan, len(rendered.images))
        parser, shows_all = await pools.run(pool, make_parser, ask, plan, model, rendered.text)
        yield Replies(
            pieces=answers(ask, await pools.run(pool, Run, plan, model, ask, rendered.text, request, parser, shows_all))
        )


def empty_answer(ask: GenerateRequest, reason: str) -> GenerateResponse:
    return GenerateResponse(model=ask.model, created_at=now(), done=True, done_reason=reason)


async def whole(pieces) -> GenerateResponse:
    """All answers in one."""
    before, last = await collect(pieces)
    everything = [*before, last]
    last.response = "".join(piece.response for piece in everything)
    last.thinking = "".join(piece.thinking for piece in everything)
    last.tool_calls = [call for piece in everything for call in piece.tool_calls or ()]
    last.logprobs = [logprob for piece in everything for logprob in piece.logprobs or ()]
    return last


ROUTES = [web.post("/api/generate", generate)]

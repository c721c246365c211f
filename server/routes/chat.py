"""POST /api/chat: a conversation, and the assistant's next message."""

import asyncio
import time
from contextlib import asynccontextmanager

from aiohttp import web

from .. import inference, names, prompt, streaming
from ..answers import json_answer, read
from ..errors import ApiError
from ..go_json import now
from ..gotemplate import Template, TemplateError
from ..inference import Plan, Run
from ..keys import LOADED_MODELS, STORE
from ..messages import ChatRequest, ChatResponse, DebugInfo, Message
from ..prompt import ContextLimit, Prompt, Thinking
from ..streaming import Replies


async def chat(request: web.Request) -> web.StreamResponse:
    started = time.monotonic()
    ask = await read(request, ChatRequest)
    async with replies(request, ask, started) as found:
        if found.is_single:
            return json_answer(found.single)
        if ask.stream is not False:
            return await streaming.send_stream(request, found.pieces)
        return json_answer(await whole(found.pieces))


@asynccontextmanager
async def replies(request: web.Request, ask: ChatRequest, started: float):
    """A context manager giving `streaming.Replies` of ChatResponse, for this API and others; the model stays loaded within it.

    started: time.monotonic() of the request. Raises ApiError, ModelNotFound and VkbackendError before anything is generated.
    """
    inference.check_top_logprobs(ask)
    if not names.parse(ask.model).is_valid:
        raise ApiError(400, "model is required")
    stored = request.app[STORE].get(ask.model)
    loaded_models = request.app[LOADED_MODELS]
    if not ask.messages and ask.keep_alive == 0:
        await loaded_models.expire(stored)
        yield Replies(single=empty_answer(ask, "unload"))
        return
    plan = await inference.make_plan(stored, ask, ["tools"] if ask.tools else [], "chat", started)
    async with loaded_models.acquire(stored, plan.options, ask.keep_alive) as model:
        if not ask.messages:
            yield Replies(single=empty_answer(ask, "load"))
            return
        rendered = await asyncio.to_thread(write_prompt, ask, plan, model)  # a long prompt must not hold up other clients
        if ask.debug_render_only:
            debug = DebugInfo(rendered.text, len(rendered.images))
            yield Replies(single=ChatResponse(model=ask.model, created_at=now(), debug_info=debug))
            return
        inference.refuse_think_level(ask)
        inference.check_format(ask.format)
        yield Replies(pieces=answers(ask, await asyncio.to_thread(Run, plan, model, ask, rendered.text, request)))


def empty_answer(ask: ChatRequest, reason: str) -> ChatResponse:
    return ChatResponse(model=ask.model, created_at=now(), message=Message(role="assistant"), done=True, done_reason=reason)


def write_prompt(ask: ChatRequest, plan: Plan, model) -> Prompt:
    """The prompt's text. Raises ApiError 500 for what a template cannot do."""
    limit = ContextLimit(plan.options.num_ctx, lambda text: len(model.tokenizer.encode(text, add_special=False)), ask.truncate is not False,
                         bool(plan.stored.projector_paths))
    try:
        return prompt.chat_prompt(Template.parse(plan.stored.template), conversation(ask, plan.stored), limit, tools=ask.tools,
                                  thinking=Thinking(ask.think), one_image_only="mllama" in plan.families)
    except (TemplateError, prompt.PromptError) as error:
        raise ApiError(500, str(error)) from None


def conversation(ask: ChatRequest, stored) -> list[Message]:
    """The request's messages behind the model's own; the model's system text only where the request does not begin with one."""
    messages = [*inference.example_messages(stored), *ask.messages]
    if stored.system and ask.messages[0].role != "system":
        messages.insert(0, Message(role="system", content=stored.system))
    return messages


async def answers(ask: ChatRequest, run: Run):
    """One ChatResponse per piece, then the one with the figures."""
    def make_answer(text):
        return ChatResponse(model=ask.model, created_at=now(), message=Message(role="assistant", content=text))

    async for answer in run.pieces(make_answer):
        yield answer


async def whole(pieces) -> ChatResponse:
    """All answers in one."""
    before, last = await streaming.collect(pieces)
    last.message.content = "".join(piece.message.content for piece in before)
    last.logprobs = [logprob for piece in before for logprob in piece.logprobs or ()]
    return last


ROUTES = [web.post("/api/chat", chat)]

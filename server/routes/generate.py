"""POST /api/generate: a prompt, put into the model's template or taken as it is, and the text that goes on from it."""

import time
from contextlib import asynccontextmanager

from aiohttp import web
from vkbackend.tokenizer import TokenizerError

from .. import inference, load_progress, output_parsers, pools, prompt, streaming
from ..answers import read
from ..errors import ApiError
from ..go_json import now
from ..gotemplate import Template, TemplateError
from ..inference import Plan, Run
from ..keys import LOADED_MODELS, STORE
from ..messages import DebugInfo, GenerateRequest, GenerateResponse, Message
from ..output_parsers import OutputParser
from ..prompt import ContextLimit, Prompt, Thinking, count_tokens
from ..prompt_style import style_of
from ..service import limits
from ..store import InvalidName
from ..streaming import Replies


async def generate(request: web.Request) -> web.StreamResponse:
    started = time.monotonic()
    ask = await read(request, GenerateRequest)
    return await load_progress.answered(request, replies(request, ask, started), ask.stream is not False, whole)


@asynccontextmanager
async def replies(request: web.Request, ask: GenerateRequest, started: float):
    """A context manager giving `streaming.Replies` of GenerateResponse, for this API and others; the model stays loaded within it.

    started: time.monotonic() of the request. Raises ApiError, ModelNotFound and VkbackendError before anything is generated.
    """
    inference.check_top_logprobs(ask)
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
    inference.refuse_think_level(ask, stored)
    plan = await inference.make_plan(stored, ask, ["insert"] if ask.suffix else [], "generate", started)
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
        inference.check_format(ask.format, ask.stream is not False)
        inference.check_images(plan, len(rendered.images))
        parser, shows_all = await pools.run(pool, make_parser, ask, plan, model, rendered.text)
        yield Replies(pieces=answers(ask, await pools.run(pool, Run, plan, model, ask, rendered.text, request, parser, shows_all)))


def empty_answer(ask: GenerateRequest, reason: str) -> GenerateResponse:
    return GenerateResponse(model=ask.model, created_at=now(), done=True, done_reason=reason)


def write_prompt(ask: GenerateRequest, plan: Plan, model) -> Prompt:
    """The prompt's text. Raises ApiError 500 for what a template cannot do, 400 for a context of another model."""
    if "mllama" in plan.families and len(ask.images or ()) > 1:
        raise ApiError(400, prompt.ONE_IMAGE_ONLY)
    if ask.raw:
        return Prompt(ask.prompt, list(ask.images or ()))
    thinking = Thinking(ask.think)
    try:
        context_text = model.tokenizer.decode(ask.context).decode("utf-8", "replace") if ask.context else ""
    except TokenizerError as error:
        raise ApiError(400, f"context: {error}; send what an answer of this model gave") from None
    try:
        if ask.suffix or ask.template:
            template = Template.parse(ask.template or plan.stored.template)
            return prompt.generate_prompt(template, prompt=ask.prompt, suffix=ask.suffix, messages=conversation(ask, plan.stored),
                                          context_text=context_text, thinking=thinking)
        limit = ContextLimit(plan.options.num_ctx, lambda text: count_tokens(model.tokenizer, text, plan.options.num_ctx), ask.truncate is not False,
                             bool(plan.stored.projector_paths))
        template = style_of(plan.stored, plan.chat_template, model.tokenizer).template
        rendered = prompt.chat_prompt(template, conversation(ask, plan.stored), limit, tools=[], thinking=thinking,
                                      one_image_only="mllama" in plan.families)
        return Prompt(context_text + rendered.text, rendered.images)
    except (TemplateError, prompt.PromptError) as error:
        raise ApiError(500, str(error)) from None


def make_parser(ask: GenerateRequest, plan: Plan, model, prompt_text: str) -> tuple[OutputParser | None, bool]:
    """(what takes the answer apart, whether every piece of it makes an answer)"""
    name = "" if ask.raw else output_parsers.name_of(plan.stored)
    if name:
        return output_parsers.builtin(name), False
    style = style_of(plan.stored, plan.chat_template, model.tokenizer) if ask.think else None
    return output_parsers.by_template(prompt_text, style.thinking_tags, style.tool_tag, None) if style else None, True


def conversation(ask: GenerateRequest, stored) -> list[Message]:
    """System text, the model's example messages (unless a context goes on from them already), and the prompt as the user's words."""
    system = ask.system or stored.system
    messages = [Message(role="system", content=system)] if system else []
    if ask.context is None:
        messages += inference.example_messages(stored)
    return [*messages, Message(role="user", content=ask.prompt, images=ask.images)]


async def answers(ask: GenerateRequest, run: Run):
    """One GenerateResponse per piece, then the one with the figures."""
    def make_answer(parsed):
        return GenerateResponse(model=ask.model, created_at=now(), response=parsed.content, thinking=parsed.thinking, tool_calls=parsed.calls or None)

    async for answer in run.pieces(make_answer):
        if answer.done and not ask.raw:
            answer.context = await pools.run(pools.of_prompt(), run.context_after)
        yield answer


async def whole(pieces) -> GenerateResponse:
    """All answers in one."""
    before, last = await streaming.collect(pieces)
    everything = [*before, last]
    last.response = "".join(piece.response for piece in everything)
    last.thinking = "".join(piece.thinking for piece in everything)
    last.tool_calls = [call for piece in everything for call in piece.tool_calls or ()]
    last.logprobs = [logprob for piece in everything for logprob in piece.logprobs or ()]
    return last


ROUTES = [web.post("/api/generate", generate)]

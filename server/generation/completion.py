"""The text that follows a prompt: how /api/generate writes the prompt and reads the answer.

In: a GenerateRequest, the plan for it, and a loaded model. Out: answers of wire/native.py. Raises ApiError.
"""

from vkbackend.tokenizer import TokenizerError

from .. import output_parsers, pools
from ..errors import ApiError
from ..go.encode import now
from ..output_parsers import OutputParser
from ..prompts import prompt
from ..prompts.gotemplate import Template, TemplateError
from ..prompts.prompt import ContextLimit, Prompt, Thinking, count_tokens
from ..prompts.style import style_of
from ..wire.native import GenerateRequest, GenerateResponse, Message
from .plan import Plan, example_messages
from .run import Run


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
            return prompt.generate_prompt(
                template,
                prompt=ask.prompt,
                suffix=ask.suffix,
                messages=conversation(ask, plan.stored),
                context_text=context_text,
                thinking=thinking,
            )
        limit = ContextLimit(
            plan.options.num_ctx,
            lambda text: count_tokens(model.tokenizer, text, plan.options.num_ctx),
            ask.truncate is not False,
            bool(plan.stored.projector_paths),
        )
        template = style_of(plan.stored, plan.chat_template, model.tokenizer).template
        rendered = prompt.chat_prompt(
            template,
            conversation(ask, plan.stored),
            limit,
            tools=[],
            thinking=thinking,
            one_image_only="mllama" in plan.families,
        )
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
    """System text, the model's example messages (unless a context goes on from them already), and the prompt as the
    user's words.
    """
    system = ask.system or stored.system
    messages = [Message(role="system", content=system)] if system else []
    if ask.context is None:
        messages += example_messages(stored)
    return [*messages, Message(role="user", content=ask.prompt, images=ask.images)]


async def answers(ask: GenerateRequest, run: Run):
    """One GenerateResponse per piece, then the one with the figures."""

    def make_answer(parsed):
        return GenerateResponse(
            model=ask.model,
            created_at=now(),
            response=parsed.content,
            thinking=parsed.thinking,
            tool_calls=parsed.calls or None,
        )

    async for answer in run.pieces(make_answer):
        if answer.done and not ask.raw:
            answer.context = await pools.run(pools.of_prompt(), run.context_after)
        yield answer

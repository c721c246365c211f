"""The assistant's turn in a conversation: its prompt, the run of the engine, and how its answer is read.

In: a ChatRequest, the plan for it, and a loaded model. Out: answers of messages.py. Raises ApiError.
"""

from contextlib import aclosing
from dataclasses import replace

from aiohttp import web

from .. import output_parsers, pools
from ..errors import ApiError
from ..go.encode import now
from ..output_parsers import Parsed, harmony
from ..prompts import prompt
from ..prompts.gotemplate import TemplateError
from ..prompts.prompt import ContextLimit, Prompt, Thinking, count_tokens
from ..prompts.style import style_of
from ..wire.native import ChatRequest, ChatResponse, Message
from .plan import Plan, check_format, example_messages
from .run import Run

ANSWER_BEGUN = Message(
    role="assistant", content="..."
)  # to built-in parsers: what comes goes on with an answer, no thoughts are to be expected


class Turn:
    """The assistant's turn: what its prompt is made of, and how its answer is read."""

    def __init__(self, ask: ChatRequest, plan: Plan, model):
        self.ask, self.plan, self.model, self.tools = ask, plan, model, ask.tools
        self.messages = conversation(ask, plan.stored)
        self.parser = None
        name = output_parsers.name_of(plan.stored)
        if name:
            self.parser = output_parsers.builtin(name, ask.tools, self.messages[-1])
            self.tools = self.parser.tools if ask.tools else ask.tools

    def write_prompt(self, thoughts: str = "") -> Prompt:
        """The prompt; with `thoughts`, one that goes on behind them. Raises ApiError 500 for what a template cannot
        do.
        """
        ask, plan, model = self.ask, self.plan, self.model
        limit = ContextLimit(
            plan.options.num_ctx,
            lambda text: count_tokens(model.tokenizer, text, plan.options.num_ctx),
            ask.truncate is not False,
            bool(plan.stored.projector_paths),
        )
        messages = [*self.messages, Message(role="assistant", thinking=thoughts)] if thoughts else self.messages
        try:
            self.style = style_of(plan.stored, plan.chat_template, model.tokenizer)
            return prompt.chat_prompt(
                self.style.template,
                messages,
                limit,
                tools=self.tools,
                thinking=Thinking(ask.think),
                one_image_only="mllama" in plan.families,
            )
        except (TemplateError, prompt.PromptError) as error:
            raise ApiError(500, str(error)) from None

    def begin(self, prompt_text: str, request: web.Request) -> Run:
        """The run of the engine. A format that the request asks for waits until the model has thought."""
        if self.parser is None:
            tags = self.style.thinking_tags if self.ask.think else None
            self.parser = output_parsers.by_template(prompt_text, tags, self.style.tool_tag, self.ask.tools)
        else:
            self.parser = self.with_calls(self.parser)
        self.format_waits = bool(check_format(self.ask.format)) and self.may_think
        return Run(
            self.plan,
            self.model,
            self.ask,
            prompt_text,
            request,
            self.parser,
            shows_all=self.parser is None,
            format="" if self.format_waits else None,
        )

    def with_calls(self, parser):
        """A built-in parser; one that does not know tool calls leaves them to what the template tells."""
        if not self.ask.tools or parser.knows_tools:
            return parser
        return output_parsers.ThoughtsThenCalls(parser, output_parsers.by_tag(self.style.tool_tag, self.ask.tools))

    @property
    def may_think(self) -> bool:
        return "thinking" in self.plan.capabilities and self.parser is not None and self.ask.think is not False

    def make_answer(self, parsed: Parsed) -> ChatResponse:
        message = Message(
            role="assistant", content=parsed.content, thinking=parsed.thinking, tool_calls=parsed.calls or None
        )
        return ChatResponse(model=self.ask.model, created_at=now(), message=message)

    async def answers(self, run: Run):
        """One ChatResponse per piece that has something to show, then the one with the figures.

        Where a format waits, the run ends with the model's first word behind its thoughts (or without one), and a
        second run, held to the format, goes on from them.
        """
        thoughts, called = "", False
        async with aclosing(run.pieces(self.make_answer)) as pieces:
            async for answer in pieces:
                thoughts, called = thoughts + answer.message.thinking, called or bool(answer.message.tool_calls)
                has_thought = answer.message.content or answer.done_reason == "stop" and not called
                if self.format_waits and has_thought:
                    if thoughts:
                        last_thought = self.make_answer(Parsed(thinking=answer.message.thinking))
                        last_thought.logprobs = answer.logprobs
                        yield last_thought
                    break
                yield answer
            else:
                return
        second = await pools.run(pools.of_prompt(), self.go_on, run, thoughts)
        async for answer in second.pieces(self.make_answer):
            yield answer

    def go_on(self, run: Run, thoughts: str) -> Run:
        """The second run, in which the model is beyond its thoughts."""
        name = output_parsers.name_of(self.plan.stored)
        prompt_text = self.write_prompt(thoughts).text if thoughts else run.prompt
        if name == "harmony":
            prompt_text += (
                (harmony.END + harmony.START + "assistant" if thoughts else "")
                + harmony.CHANNEL
                + "final"
                + harmony.MESSAGE
            )
        if name:
            parser = self.with_calls(output_parsers.builtin(name, self.ask.tools, ANSWER_BEGUN))
        else:
            parser = output_parsers.by_template(prompt_text, None, self.style.tool_tag, self.ask.tools)
        return run.again(prompt_text, parser, self.ask.format)


def conversation(ask: ChatRequest, stored) -> list[Message]:
    """The request's messages behind the model's own; the model's system text only where the request does not begin
    with one.
    """
    messages = [*example_messages(stored), *ask.messages]
    if stored.system and ask.messages[0].role != "system":
        messages.insert(0, Message(role="system", content=stored.system))
    if stored.config.get("model_family") == "qwen3" or stored.full_name.model == "deepseek-r1":
        messages = without_old_thoughts(messages)
    return messages


def without_old_thoughts(messages: list[Message]) -> list[Message]:
    """Thoughts that clients sent back in the content of answers before the last question are taken out: these models
    were not trained on them.
    """
    last_question = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    return [
        replace(
            message,
            content=output_parsers.ThinkingParser("<think>", "</think>").add(message.content, done=True).content,
        )
        if message.role == "assistant" and index < last_question
        else message
        for index, message in enumerate(messages)
    ]

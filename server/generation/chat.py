"""The assistant's turn in a conversation: the part of a request that is particular to /api/chat.

In: a ChatRequest, then the plan for it and a loaded model. Out: ChatResponses. Raises ApiError.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from .. import output_parsers, pools
from ..errors import ApiError
from ..go.encode import now
from ..library.model import StoredModel
from ..library.names import parse_name
from ..library.store import Store
from ..output_parsers import BuiltinParser, OutputParser, Parsed, harmony
from ..prompts.prompt_text import Prompt
from ..wire.native import ChatRequest, ChatResponse, Message
from .plan import check_format, example_messages, refuse_think_level
from .run import Run
from .turn import Turn, template_errors

# Tells a built-in parser that an answer has begun and no thinking follows.
ANSWER_BEGUN = Message(role="assistant", content="...")


class ChatTurn(Turn[ChatRequest, ChatResponse]):
    """The assistant's next message: content, thinking and tool calls."""

    verb = "chat"

    def __init__(self, ask: ChatRequest):
        super().__init__(ask)
        # Set by `render`:
        self.messages: list[Message] = []
        self.tools = ask.tools
        self.builtin_parser: BuiltinParser | None = None
        # Set by `begin`:
        self.parser: OutputParser | None = None
        self.format_waits = False  # until the model has thought

    def find(self, store: Store) -> StoredModel:
        if not parse_name(self.ask.model).is_valid:
            raise ApiError(400, "model is required")
        return store.get(self.ask.model)

    @property
    def is_empty(self) -> bool:
        return not self.ask.messages

    @property
    def needed(self) -> list[str]:
        return ["tools"] if self.ask.tools else []

    def render(self) -> Prompt:
        self.messages = all_messages(self.ask, self.plan.stored)
        if self.parser_name:
            self.builtin_parser = output_parsers.builtin(self.parser_name, self.ask.tools, self.messages[-1])
            self.tools = self.builtin_parser.tools if self.ask.tools else self.ask.tools
        return self.chat_prompt(self.messages, self.tools)

    def check_prompt(self, prompt: Prompt) -> None:
        refuse_think_level(self.ask, self.plan.stored)
        super().check_prompt(prompt)

    def begin(self, prompt_text: str, client_left: Callable[[], bool]) -> Run:
        """Prepare the run. A format that the request asks for waits until the model has thought."""
        if self.builtin_parser is None:
            tags = self.style.thinking_tags if self.ask.think else None
            self.parser = output_parsers.by_template(prompt_text, tags, self.style.calls, self.ask.tools)
        else:
            self.parser = self.with_calls(self.builtin_parser)
        parser = output_parsers.without_marks(self.style.answer_marks, self.parser)
        self.format_waits = bool(check_format(self.ask.format)) and self.may_think
        return Run(
            self.plan,
            self.model,
            self.ask,
            prompt_text,
            self.tokens,
            client_left,
            parser,
            shows_all=parser is None,
            format="" if self.format_waits else None,
        )

    def with_calls(self, parser: BuiltinParser) -> OutputParser:
        """A built-in parser; if it does not know tool calls, followed by the one for the template's calls."""
        if not self.ask.tools or parser.knows_tools:
            return parser
        return output_parsers.ThoughtsThenCalls(parser, output_parsers.by_format(self.style.calls, self.ask.tools))

    @property
    def may_think(self) -> bool:
        """Whether the answer may begin with thinking."""
        return "thinking" in self.plan.capabilities and self.parser is not None and self.ask.think is not False

    def make_answer(self, parsed: Parsed) -> ChatResponse:
        """The answer for one parsed piece."""
        answer = self.bare_answer()
        answer.message = Message(
            role="assistant", content=parsed.content, thinking=parsed.thinking, tool_calls=parsed.calls or None
        )
        return answer

    async def answers(self, run: Run) -> AsyncGenerator[ChatResponse, None]:
        """If a format waits, the run ends with the model's first word after its thoughts (or without any), and a
        second run, held to the format, continues from them.
        """
        thoughts = ""
        called = False
        async with aclosing(run.pieces(self.make_answer)) as pieces:
            async for answer in pieces:
                thoughts += answer.message.thinking
                called = called or bool(answer.message.tool_calls)
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
        second = await pools.run(pools.of_prompt(), self.after_thoughts, run, thoughts)
        async for answer in second.pieces(self.make_answer):
            yield answer

    def after_thoughts(self, run: Run, thoughts: str) -> Run:
        """The second run, whose prompt ends after the model's thoughts. Blocks."""
        name = self.parser_name
        prompt_text = run.prompt
        if thoughts:
            with template_errors():
                messages = [*self.messages, Message(role="assistant", thinking=thoughts)]
                prompt_text = self.chat_prompt(messages, self.tools).text
        if name == "harmony":
            end = harmony.END + harmony.START + "assistant" if thoughts else ""
            prompt_text += end + harmony.CHANNEL + "final" + harmony.MESSAGE
        if name:
            parser = self.with_calls(output_parsers.builtin(name, self.ask.tools, ANSWER_BEGUN))
        else:
            parser = output_parsers.by_template(prompt_text, None, self.style.calls, self.ask.tools)
        parser = output_parsers.without_marks(self.style.answer_marks, parser)
        return run.again(prompt_text, parser, self.ask.format or "")

    def bare_answer(self) -> ChatResponse:
        return ChatResponse(model=self.ask.model, created_at=now())

    def empty_answer(self, reason: str) -> ChatResponse:
        answer = super().empty_answer(reason)
        answer.message = Message(role="assistant")
        return answer

    @staticmethod
    def join(answers: list[ChatResponse]) -> ChatResponse:
        answers[-1].message = Message(
            role="assistant",
            content="".join(answer.message.content for answer in answers),
            thinking="".join(answer.message.thinking for answer in answers),
            tool_calls=[call for answer in answers for call in answer.message.tool_calls or ()],
        )
        return answers[-1]


def all_messages(ask: ChatRequest, stored: StoredModel) -> list[Message]:
    """The model's own messages, then the request's; the model's system text only if the request does not begin with
    one.
    """
    asked = ask.messages or []
    messages = [*example_messages(stored), *asked]
    if stored.system and asked[0].role != "system":
        messages.insert(0, Message(role="system", content=stored.system))
    if stored.config.get("model_family") == "qwen3" or stored.full_name.model == "deepseek-r1":
        messages = without_old_thoughts(messages)
    return messages


def without_old_thoughts(messages: list[Message]) -> list[Message]:
    """Remove the thoughts that clients sent back in the content of answers before the last question: these models
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

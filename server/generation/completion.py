"""The text that follows a prompt: the part of a request that is particular to /api/generate.

In: a GenerateRequest, then the plan for it and a loaded model. Out: GenerateResponses. Raises ApiError.
"""

from collections.abc import AsyncGenerator, Callable

from vkbackend.tokenizer import TokenizerError

from .. import output_parsers, pools
from ..errors import ApiError
from ..go.encode import now
from ..library.model import InvalidName, StoredModel
from ..library.store import Store
from ..output_parsers import OutputParser, Parsed
from ..prompts import prompt_text
from ..prompts.gotemplate import Template
from ..prompts.prompt_text import Prompt, Thinking
from ..wire.native import GenerateRequest, GenerateResponse, Message
from .plan import example_messages, refuse_think_level
from .run import Run
from .turn import Turn


class CompletionTurn(Turn[GenerateRequest, GenerateResponse]):
    """The text after a prompt, which is written with the model's template unless the request is raw."""

    verb = "generate"

    def find(self, store: Store) -> StoredModel:
        return find_model(store, self.ask.model)

    @property
    def is_empty(self) -> bool:
        return not self.ask.prompt

    def check(self, stored: StoredModel) -> None:
        if self.ask.raw and (self.ask.template or self.ask.system or self.ask.context):
            raise ApiError(400, "raw mode does not support template, system, or context")
        refuse_think_level(self.ask, stored)

    @property
    def needed(self) -> list[str]:
        return ["insert"] if self.ask.suffix else []

    @property
    def pool(self) -> str:
        return "long prompts" if self.ask.template else super().pool

    def render(self) -> Prompt:
        """Write the prompt. Raises ApiError 400 for a context of another model."""
        ask = self.ask
        plan = self.plan
        if "mllama" in plan.families and len(ask.images or ()) > 1:
            raise ApiError(400, prompt_text.ONE_IMAGE_ONLY)
        if ask.raw:
            return Prompt(ask.prompt, list(ask.images or ()))
        try:
            context_text = self.model.tokenizer.decode(ask.context).decode("utf-8", "replace") if ask.context else ""
        except TokenizerError as error:
            raise ApiError(400, f"context: {error}; send the context of an earlier answer from this model") from None
        if ask.suffix and not ask.template and plan.infill_marks is not None:
            return Prompt(context_text + plan.infill_marks.prompt(ask.prompt, ask.suffix))
        if ask.suffix or ask.template:
            return prompt_text.generate_prompt(
                Template.parse(ask.template or plan.stored.template),
                prompt=ask.prompt,
                suffix=ask.suffix,
                messages=all_messages(ask, plan.stored),
                context_text=context_text,
                thinking=Thinking(ask.think),
            )
        rendered = self.chat_prompt(all_messages(ask, plan.stored), tools=[])
        return Prompt(context_text + rendered.text, rendered.images)

    def begin(self, prompt_text: str, client_left: Callable[[], bool]) -> Run:
        parser, shows_all = self.make_parser(prompt_text)
        return Run(self.plan, self.model, self.ask, prompt_text, self.tokens, client_left, parser, shows_all)

    def make_parser(self, prompt_text: str) -> tuple[OutputParser | None, bool]:
        """(the parser of the answer, whether every piece makes an answer)"""
        if self.parser_name and not self.ask.raw:
            return output_parsers.builtin(self.parser_name), False
        parser = None
        if self.ask.think:
            parser = output_parsers.by_template(prompt_text, self.style.thinking_tags, self.style.calls, None)
        marks = () if self.ask.raw else self.style.answer_marks
        return output_parsers.without_marks(marks, parser), True

    def make_answer(self, parsed: Parsed) -> GenerateResponse:
        """The answer for one parsed piece."""
        answer = self.bare_answer()
        answer.response = parsed.content
        answer.thinking = parsed.thinking
        answer.tool_calls = parsed.calls or None
        return answer

    async def answers(self, run: Run) -> AsyncGenerator[GenerateResponse, None]:
        async for answer in run.pieces(self.make_answer):
            if answer.done and not self.ask.raw:
                answer.context = await pools.run(pools.of_prompt(), run.context_after)
            yield answer

    def bare_answer(self) -> GenerateResponse:
        return GenerateResponse(model=self.ask.model, created_at=now())

    @staticmethod
    def join(answers: list[GenerateResponse]) -> GenerateResponse:
        last = answers[-1]
        last.response = "".join(answer.response for answer in answers)
        last.thinking = "".join(answer.thinking for answer in answers)
        last.tool_calls = [call for answer in answers for call in answer.tool_calls or ()]
        return last


def find_model(store: Store, name: str) -> StoredModel:
    """The model with this name. Raises ApiError 404 for an invalid name, ModelNotFound for one that is not in the
    store.
    """
    try:
        return store.get(name)
    except InvalidName:
        raise ApiError(404, f"model '{name}' not found") from None


def all_messages(ask: GenerateRequest, stored: StoredModel) -> list[Message]:
    """The system text, the model's example messages (unless a context already continues from them), and the prompt as
    the user's message.
    """
    system = ask.system or stored.system
    messages = [Message(role="system", content=system)] if system else []
    if ask.context is None:
        messages += example_messages(stored)
    return [*messages, Message(role="user", content=ask.prompt, images=ask.images)]

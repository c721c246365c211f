"""The steps of a request of /api/chat or /api/generate: find the model, plan, load it, write the prompt, run, answer.

In: a `Turn`, which holds the request and the part that is particular to its route. Out: `Replies`, whose pieces are
answers of `wire/native.py`. Raises ApiError, ModelNotFound and VkbackendError before anything is generated.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

from .. import output_parsers, pools
from ..errors import ApiError
from ..library.model import StoredModel
from ..library.store import Store
from ..loading.loaded_model import LoadedModel
from ..prompts import prompt_text
from ..prompts.gotemplate import TemplateError
from ..prompts.prompt_text import ContextLimit, Prompt, Thinking
from ..prompts.style import PromptStyle, style_of
from ..wire import limits
from ..wire.native import ChatRequest, ChatResponse, DebugInfo, GenerateRequest, GenerateResponse
from . import load_progress
from .plan import Plan, check_format, check_images, check_top_logprobs, make_plan
from .request_context import RequestContext
from .run import Run
from .tokens import PromptTokens

Ask = TypeVar("Ask", ChatRequest, GenerateRequest)
Answer = TypeVar("Answer", ChatResponse, GenerateResponse)


@dataclass
class Replies:
    """The answer to a request: `single` if nothing is generated (a model was loaded, a prompt is shown), else `pieces`,
    the last of which has the counts and durations.
    """

    single: object = None
    pieces: AsyncGenerator | None = None


@dataclass(frozen=True)
class _Loaded:
    """What is known once the model is loaded."""

    plan: Plan
    model: LoadedModel
    tokens: PromptTokens


class Turn(ABC, Generic[Ask, Answer]):
    """One request and its answer. A subclass has the parts that are particular to its route; `replies` calls the
    methods in the order in which they stand here.
    """

    verb: ClassVar[str]  # what the model is asked to do, for the error if it cannot

    def __init__(self, ask: Ask):
        self.ask = ask
        self._loaded: _Loaded | None = None  # set by `write_prompt`

    @property
    def plan(self) -> Plan:
        """How the request is answered; known once the model is loaded."""
        return self._when_loaded.plan

    @property
    def model(self) -> LoadedModel:
        """The loaded model; known after `write_prompt`."""
        return self._when_loaded.model

    @property
    def tokens(self) -> PromptTokens:
        """The tokens of the prompt's texts, which are made once."""
        return self._when_loaded.tokens

    @property
    def _when_loaded(self) -> _Loaded:
        assert self._loaded is not None, "`write_prompt` comes first"
        return self._loaded

    @abstractmethod
    def find(self, store: Store) -> StoredModel:
        """The model that the request names. Raises ApiError and ModelNotFound."""

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """Whether there is nothing to answer, so that the request only loads or unloads its model."""

    def check(self, stored: StoredModel) -> None:
        """Raise ApiError for requests that can be refused before the model's file is opened."""

    @property
    @abstractmethod
    def needed(self) -> list[str]:
        """The capabilities ("tools", "insert") that the request needs."""

    @property
    def pool(self) -> str:
        """The threads that write the prompt."""
        return pools.of_prompt()

    def write_prompt(self, plan: Plan, model: LoadedModel) -> Prompt:
        """Write the prompt. Blocks. Raises ApiError 500 if the template fails."""
        self._loaded = _Loaded(plan, model, PromptTokens(model.tokenizer))
        with template_errors():
            return self.render()

    @abstractmethod
    def render(self) -> Prompt:
        """Write the prompt for `self.plan` and `self.model`. Raises TemplateError and PromptError."""

    def check_prompt(self, prompt: Prompt) -> None:
        """Raise ApiError for requests that are refused only after the prompt was written."""
        check_format(self.ask.format, self.ask.stream is not False)
        check_images(self.plan, len(prompt.images))

    @abstractmethod
    def begin(self, prompt_text: str, client_left: Callable[[], bool]) -> Run:
        """Prepare the run of the engine. Blocks."""

    @abstractmethod
    def answers(self, run: Run) -> AsyncGenerator[Answer, None]:
        """One answer per piece that has something to show, then the one with the counts and durations."""

    @abstractmethod
    def bare_answer(self) -> Answer:
        """An answer that holds the model's name and the time."""

    @staticmethod
    @abstractmethod
    def join(answers: list[Answer]) -> Answer:
        """All answers in the last one, but for their log-probabilities."""

    def empty_answer(self, reason: str) -> Answer:
        """The answer to a request that is empty."""
        answer = self.bare_answer()
        answer.done = True
        answer.done_reason = reason
        return answer

    @classmethod
    async def whole(cls, pieces: AsyncGenerator[Answer, None]) -> Answer:
        """All pieces in one answer."""
        async with aclosing(pieces):
            answers = [answer async for answer in pieces]
        last = cls.join(answers)
        last.logprobs = [logprob for answer in answers for logprob in answer.logprobs or ()]
        return last

    # What subclasses use.

    @cached_property
    def style(self) -> PromptStyle:
        """How the model's prompts are written, and what marks thinking and calls. Raises TemplateError."""
        return style_of(self.plan.stored, self.plan.chat_template, self.model.tokenizer)

    @property
    def parser_name(self) -> str:
        """The built-in output parser that the model names, or ""."""
        return output_parsers.name_of(self.plan.stored)

    def chat_prompt(self, messages: list, tools: list | None) -> Prompt:
        """The model's own template over messages, of which the oldest are left out if they do not fit the context."""
        plan = self.plan
        limit = ContextLimit(
            plan.options.num_ctx,
            lambda text: self.tokens.count(text, plan.options.num_ctx),
            self.ask.truncate is not False,
            bool(plan.stored.projector_paths),
        )
        return prompt_text.chat_prompt(
            self.style.template,
            messages,
            limit,
            tools=tools,
            thinking=Thinking(self.ask.think),
            one_image_only="mllama" in plan.families,
        )


@contextmanager
def template_errors() -> Iterator[None]:
    """Turn the errors of templates into ApiError 500."""
    try:
        yield
    except (TemplateError, prompt_text.PromptError) as error:
        raise ApiError(500, str(error)) from None


@asynccontextmanager
async def replies(context: RequestContext, turn: Turn) -> AsyncIterator[Replies]:
    """A context manager giving the answer to one request; its model stays loaded within the block."""
    ask = turn.ask
    check_top_logprobs(ask)
    limits.check(ask)
    stored = turn.find(context.store)
    if turn.is_empty and ask.keep_alive == 0:
        await context.loaded_models.expire(stored)
        yield Replies(single=turn.empty_answer("unload"))
        return
    turn.check(stored)
    plan = await make_plan(stored, ask, turn.needed, turn.verb, context.started)
    async with load_progress.acquire(context, ask, stored, plan.options) as model:
        if turn.is_empty:
            yield Replies(single=turn.empty_answer("load"))
            return
        # In a thread: a long prompt must not hold up other clients.
        rendered = await pools.run(turn.pool, turn.write_prompt, plan, model)
        if ask.debug_render_only:
            answer = turn.bare_answer()
            answer.debug_info = DebugInfo(rendered.text, len(rendered.images))
            yield Replies(single=answer)
            return
        turn.check_prompt(rendered)
        run = await pools.run(turn.pool, turn.begin, rendered.text, context.client_left)
        yield Replies(pieces=turn.answers(run))

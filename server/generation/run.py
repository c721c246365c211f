"""One generation on a loaded model: a prompt in, pieces of an answer out.

In: a Plan, a loaded model, the prompt's text and its tokens. Out: answers of `wire/native.py`, which the caller
shapes. Raises ApiError.
"""

import copy
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from vkbackend.engine.request import Finished, GenerationRequest, Piece, ScoredToken
from vkbackend.errors import RequestError

from ..errors import ApiError
from ..loading.loaded_model import LoadedModel
from ..output_parsers import OutputParser, Parsed, ParseError
from ..wire.native import ChatRequest, ChatResponse, GenerateRequest, GenerateResponse
from .events import engine_events, logprobs, nanoseconds
from .plan import Plan, check_format
from .tokens import PromptTokens

ID_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"

TOO_LONG = "the input length exceeds the context length"
UNLOADED = "the model was unloaded while it answered; send the request again"

Answer = TypeVar("Answer", ChatResponse, GenerateResponse)


def check_bias(plan: Plan, model: LoadedModel) -> None:
    """Raise ApiError 400 for a token that the model does not have."""
    tokenizer = model.tokenizer
    unknown = next((token for token in plan.sampling.logit_bias if token >= tokenizer.vocab_size), None)
    if unknown is not None:
        raise ApiError(400, f"logit_bias: token {unknown} is not in the model's vocabulary of {tokenizer.vocab_size}")


class Run:
    """One generation on a loaded model; `parser` splits what it writes into content, thinking and tool calls.

    shows_all: every piece makes an answer; otherwise only those in which the parser finds something to show. The
    log-probabilities of held-back text come with the next answer. format: in place of the request's; None keeps that.
    """

    def __init__(
        self,
        plan: Plan,
        model: LoadedModel,
        ask: ChatRequest | GenerateRequest,
        prompt: str,
        tokens: PromptTokens,
        client_left: Callable[[], bool],
        parser: OutputParser | None = None,
        shows_all: bool = True,
        format: str | None = None,
    ):
        check_bias(plan, model)
        self.plan = plan
        self.model = model
        self.prompt = prompt
        self.parser = parser
        self.shows_all = shows_all
        self.client_left = client_left
        self.loaded_at = time.monotonic()
        self._texts: list[str] = []  # of the pieces so far
        self._tokens = tokens
        self._context_length = min(model.context_length, plan.options.num_ctx)
        self._truncates = ask.truncate is not False
        self.generation = GenerationRequest(
            self._prompt_tokens(prompt),
            plan.sampling,
            num_predict=plan.options.num_predict,
            stop=plan.options.stop or [],
            logprobs=ask.logprobs,
            top_logprobs=ask.top_logprobs if ask.logprobs else 0,
            num_ctx=self._context_length,
            num_keep=plan.options.num_keep,
            shift=ask.shift is not False,
            truncate=self._truncates,
            format=check_format(ask.format) if format is None else format,
        )
        self._num_calls = 0

    def _prompt_tokens(self, prompt: str) -> list[int]:
        """The prompt's tokens; for a long one that does not fit, those that the engine would keep, or one more than
        fits if it must not be cut.
        """
        most = self._context_length
        if not self._truncates:
            return self._tokens.prompt(prompt, most + 1, most + 1)
        from vkbackend.engine.generation import tokens_kept  # loads the engine, which is there by now

        keep = tokens_kept(self.plan.options.num_keep, most, self.model.tokenizer.adds_bos, most)
        return self._tokens.prompt(prompt, most, keep)

    def context_after(self) -> list[int]:
        """The tokens of the prompt and the answer, as the answer's `context` shows them; only the last ones if a long
        prompt did not fit. Blocks.
        """
        return self._tokens.plain(self.prompt + "".join(self._texts), self._context_length)

    def again(self, prompt: str, parser: OutputParser | None, format: str) -> "Run":
        """A second run in place of this one, from another prompt and held to a format. It continues the answer's text
        and the numbers of its tool calls.
        """
        run = copy.copy(self)
        run.prompt = prompt
        run.parser = parser
        run.generation = replace(self.generation, prompt=self._prompt_tokens(prompt), format=format)
        return run

    async def pieces(self, make_answer: Callable[[Parsed], Answer]) -> AsyncGenerator[Answer, None]:
        """`make_answer` for each piece, with its log-probabilities, and a last one with counts and durations.

        Raises ApiError: a prompt that is too long and must not be cut, one that the engine refuses, a model that was
        unloaded, a tool call that cannot be read.
        """
        if not self.generation.truncate and len(self.generation.prompt) > self._context_length:
            raise ApiError(400, TOO_LONG)
        held: list[ScoredToken] = []  # log-probabilities of tokens that no answer has shown yet
        try:
            async with aclosing(engine_events(self.model.engine, self.generation, self.client_left)) as events:
                async for event in events:
                    text = ""
                    if isinstance(event, Finished):
                        if event.reason == "cancelled":
                            raise ApiError(503, UNLOADED)
                    elif isinstance(event, Piece):
                        text = event.text
                        self._texts.append(text)
                        held += event.logprobs
                    parsed = self._parse(text, isinstance(event, Finished))
                    shows = not parsed.is_empty or self.shows_all and bool(text or held)
                    if isinstance(event, Finished) or shows:
                        answer = make_answer(parsed)
                        answer.logprobs = logprobs(held)
                        held = []
                        if isinstance(event, Finished):
                            self.finish(answer, event)
                        yield answer
        except RequestError as error:
            raise ApiError(400, str(error)) from None

    def _parse(self, text: str, done: bool) -> Parsed:
        if self.parser is None:
            return Parsed(text)
        try:
            parsed = self.parser.add(text, done)
        except ParseError as error:
            raise ApiError(500, str(error)) from None
        for call in parsed.calls:
            call.id = "call_" + "".join(secrets.choice(ID_CHARACTERS) for _ in range(8))
            call.function.index = self._num_calls
            self._num_calls += 1
        return parsed

    def finish(self, answer: ChatResponse | GenerateResponse, event: Finished) -> None:
        """Fill in the last answer: why it ended, counts, and durations in nanoseconds."""
        answer.done = True
        answer.done_reason = str(event.reason)
        answer.total_duration = nanoseconds(time.monotonic() - self.plan.started)
        answer.load_duration = nanoseconds(self.loaded_at - self.plan.started)
        answer.prompt_eval_count = event.prompt_tokens
        answer.eval_count = event.tokens
        answer.prompt_eval_duration = nanoseconds(event.prompt_seconds)
        answer.eval_duration = nanoseconds(event.decode_seconds)

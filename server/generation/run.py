"""One generation on a loaded model: a prompt in, pieces of an answer out.

In: a Plan, a loaded model and the prompt's text. Out: answers of wire/native.py, which the caller shapes. Raises
ApiError.
"""

import copy
import secrets
import time
from contextlib import aclosing
from dataclasses import replace

from aiohttp import web

from vkbackend.engine.generation import tokens_kept
from vkbackend.engine.request import Finished, GenerationRequest
from vkbackend.errors import RequestError
from vkbackend.tokenizer.long_texts import encode_at_most

from ..errors import ApiError
from ..http.streams import has_left
from ..output_parsers import OutputParser, Parsed, ParseError
from .events import engine_events, logprobs, nanoseconds
from .plan import Plan, check_format

ID_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"

TOO_LONG = "the input length exceeds the context length"


def check_bias(plan: Plan, model):
    """Raises ApiError 400 for a token that the model does not have."""
    unknown = next((token for token in plan.sampling.logit_bias if token >= model.tokenizer.vocab_size), None)
    if unknown is not None:
        raise ApiError(
            400, f"logit_bias: token {unknown} is not in the model's vocabulary of {model.tokenizer.vocab_size}"
        )


class Run:
    """One generation on a loaded model; `text` is what it has written so far, `parser` what takes it apart.

    shows_all: an answer is made of every piece; otherwise of those in which the parser finds something to show.
    Log-probabilities of what is held back come with the next answer. format None: that of the request.
    """

    def __init__(
        self,
        plan: Plan,
        model,
        ask,
        prompt: str,
        request: web.Request,
        parser: OutputParser | None = None,
        shows_all: bool = True,
        format: str | None = None,
    ):
        check_bias(plan, model)
        self.plan, self.model, self.prompt, self.parser, self.shows_all = plan, model, prompt, parser, shows_all
        self.loaded_at = time.monotonic()
        self.text = ""
        context_length = self._context_length = min(model.context_length, plan.options.num_ctx)
        self._truncates = ask.truncate is not False
        self.generation = GenerationRequest(
            self._tokens(prompt),
            plan.sampling,
            num_predict=plan.options.num_predict,
            stop=plan.options.stop or [],
            logprobs=ask.logprobs,
            top_logprobs=ask.top_logprobs if ask.logprobs else 0,
            num_ctx=context_length,
            num_keep=plan.options.num_keep,
            shift=ask.shift is not False,
            truncate=ask.truncate is not False,
            format=check_format(ask.format) if format is None else format,
        )
        self._client_left = lambda: has_left(request)
        self._num_calls = 0

    def _tokens(self, prompt: str) -> list[int]:
        """The prompt's tokens; of a long one that does not fit, those that the engine would keep, or one more than
        fit where it must not be cut.
        """
        most = self._context_length
        if not self._truncates:
            return encode_at_most(self.model.tokenizer, prompt, most + 1, most + 1)
        keep = tokens_kept(self.plan.options.num_keep, most, self.model.tokenizer.adds_bos, most)
        return encode_at_most(self.model.tokenizer, prompt, most, keep)

    def context_after(self) -> list[int]:
        """The tokens of the prompt and the answer, as the answer's `context` shows them; the last ones of a long
        prompt that did not fit.
        """
        return encode_at_most(self.model.tokenizer, self.prompt + self.text, self._context_length, add_special=False)

    def again(self, prompt: str, parser: OutputParser | None, format: str) -> "Run":
        """A second run in place of this one: from another prompt, held to a format. The answer's text and calls go
        on.
        """
        run = copy.copy(self)
        run.prompt, run.parser = prompt, parser
        run.generation = replace(self.generation, prompt=self._tokens(prompt), format=format)
        return run

    async def pieces(self, make_answer):
        """`make_answer(Parsed)` for each piece, with its log-probabilities, and a last one with the figures.

        Raises ApiError: a prompt that is too long where it must not be cut, one that the engine refuses, a model
        that goes away, a tool call that cannot be read.
        """
        if not self.generation.truncate and len(self.generation.prompt) > self.generation.num_ctx:
            raise ApiError(400, TOO_LONG)
        held = []  # log-probabilities of tokens that no answer has shown yet
        try:
            async with aclosing(engine_events(self.model.engine, self.generation, self._client_left)) as events:
                async for event in events:
                    is_last = isinstance(event, Finished)
                    if is_last and event.reason == "cancelled":
                        raise ApiError(503, "the model was unloaded while it answered; send the request again")
                    if not is_last:
                        self.text += event.text
                        held += event.logprobs
                    parsed = self._parse("" if is_last else event.text, is_last)
                    if is_last or not parsed.is_empty or self.shows_all and (event.text or event.logprobs):
                        answer = make_answer(parsed)
                        answer.logprobs, held = logprobs(held), []
                        yield self.finished(answer, event) if is_last else answer
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

    def finished(self, answer, event: Finished):
        """The last answer: why it ended, counts, and durations in nanoseconds."""
        answer.done, answer.done_reason = True, str(event.reason)
        answer.total_duration = nanoseconds(time.monotonic() - self.plan.started)
        answer.load_duration = nanoseconds(self.loaded_at - self.plan.started)
        answer.prompt_eval_count, answer.eval_count = event.prompt_tokens, event.tokens
        answer.prompt_eval_duration = nanoseconds(event.prompt_seconds)
        answer.eval_duration = nanoseconds(event.decode_seconds)
        return answer

"""What /api/generate and /api/chat have in common: the model, its options, what it can do, and one run of its engine.

In: requests of messages.py. Out: `Plan` (before loading) and answers' parts. Raises ApiError in the words of Ollama 0.12.11.
"""

import asyncio
import time
from dataclasses import dataclass

from aiohttp import web
from vkbackend.engine.sequence import Finished, GenerationRequest, SamplingOptions, default_options
from vkbackend.errors import RequestError, VkbackendError
from vkbackend.gguf.reader import GGUFFile

from . import go_text, streaming
from .capabilities import capabilities
from .errors import ApiError
from .messages import Message
from .parameters import Options
from .store import StoredModel

MAX_TOP_LOGPROBS = 20
MAX_DESCRIBED = 64
TOO_LONG = "the input length exceeds the context length"


def check_top_logprobs(ask):
    if not 0 <= ask.top_logprobs <= MAX_TOP_LOGPROBS:
        raise ApiError(400, f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")


@dataclass
class Plan:
    """A request's model with its options, checked against what it can do. started: time.monotonic() of the request."""

    stored: StoredModel
    options: Options
    sampling: SamplingOptions
    capabilities: list[str]
    started: float

    @property
    def families(self) -> list[str]:
        return self.stored.config.get("model_families") or []


def describe(stored: StoredModel) -> tuple[str, list[str]]:
    """(architecture, capabilities) from the header of the model's file; remembered, for a manifest's digest stands for all of it."""
    if stored.digest not in _described:
        while len(_described) >= MAX_DESCRIBED:
            _described.pop(next(iter(_described)), None)  # the oldest; another thread may have been first
        _described[stored.digest] = _describe(stored)
    return _described[stored.digest]


_described: dict[str, tuple[str, list[str]]] = {}


def _describe(stored: StoredModel) -> tuple[str, list[str]]:
    try:
        metadata = GGUFFile.open(stored.gguf_path).metadata if stored.gguf_path else None
    except OSError as error:
        raise ApiError(500, f"{stored.name}: its file cannot be read ({error}); pull or create the model again") from None
    except VkbackendError as error:
        raise ApiError(500, str(error)) from None
    architecture = "" if metadata is None else metadata.get("general.architecture", None, "")
    return architecture, capabilities(stored, metadata)


async def make_plan(stored: StoredModel, ask, needed: list[str], verb: str, started: float) -> Plan:
    """Checks `needed` capabilities ("insert", "tools"...) and the options, in the order in which Ollama does.

    `verb` is what the model is asked to do, for the message where it cannot; `started` is the request's time.monotonic().
    A model that thinks does so unless told otherwise: `ask.think` becomes True.
    """
    architecture, can = await asyncio.to_thread(describe, stored)
    if "thinking" in can:
        ask.think = True if ask.think is None else ask.think
    elif ask.think:
        raise ApiError(400, f"{go_text.quote(ask.model)} does not support thinking")
    if "completion" not in can:
        raise ApiError(400, f"{go_text.quote(ask.model)} does not support {verb}")
    missing = [name for name in needed if name not in can]
    if missing:
        raise ApiError(400, f"{stored.full_name} does not support {missing[0]}")
    try:
        options = Options.defaults().update(stored.parameters).update(ask.options)
    except ValueError as error:
        raise ApiError(500, str(error)) from None
    asked = {name for values in (stored.parameters, ask.options or {}) for name, value in values.items() if value is not None}
    return Plan(stored, options, sampling_options(options, asked, architecture), can, started)


def sampling_options(options: Options, asked: set[str], architecture: str) -> SamplingOptions:
    """The engine's part of the options. The default repeat penalty depends on the architecture; one that was asked for holds everywhere."""
    penalty = options.repeat_penalty if "repeat_penalty" in asked else default_options(architecture).repeat_penalty
    return SamplingOptions(
        temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, min_p=options.min_p, typical_p=options.typical_p,
        repeat_last_n=options.repeat_last_n, repeat_penalty=penalty, presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty, seed=options.seed)


def example_messages(stored: StoredModel) -> list[Message]:
    """The model's own messages, which come first in every conversation."""
    return [Message(role=str(message.get("role") or "").lower(), content=str(message.get("content") or "")) for message in stored.messages]


def refuse_think_level(ask):
    """Levels (`"high"`) are for models with a parser of their own; there is none yet."""
    if isinstance(ask.think, str):
        raise ApiError(400, f"think value {go_text.quote(ask.think)} is not supported for this model")


def check_format(format_text: str | None):
    """`format` as it came, JSON text: null and "" are none, everything that is neither "json" nor an object is refused."""
    if not format_text or format_text in ("null", '""'):
        return
    if format_text != '"json"' and not format_text.startswith("{"):
        raise ApiError(500, f"invalid format: {go_text.quote(format_text)}; expected \"json\" or a valid JSON Schema object")
    raise ApiError(501, "format: structured output is not supported yet; leave format out and ask for JSON in the prompt")


class Run:
    """One generation on a loaded model; `text` is what it has written so far."""

    def __init__(self, plan: Plan, model, ask, prompt: str, request: web.Request):
        self.plan, self.model, self.prompt = plan, model, prompt
        self.loaded_at = time.monotonic()
        self.text = ""
        context_length = min(model.context_length, plan.options.num_ctx)
        self.generation = GenerationRequest(
            model.tokenizer.encode(prompt), plan.sampling, num_predict=plan.options.num_predict, stop=plan.options.stop or [], logprobs=ask.logprobs,
            top_logprobs=ask.top_logprobs if ask.logprobs else 0, num_ctx=context_length, num_keep=plan.options.num_keep,
            shift=ask.shift is not False, truncate=ask.truncate is not False)
        self._client_left = lambda: streaming.has_left(request)

    async def pieces(self, make_answer):
        """`make_answer(text)` for each piece, with its log-probabilities, and a last one with the figures.

        Raises ApiError: a prompt that is too long where it must not be cut, one that the engine refuses, a model that goes away.
        """
        if not self.generation.truncate and len(self.generation.prompt_tokens) > self.generation.num_ctx:
            raise ApiError(400, TOO_LONG)
        try:
            async for event in streaming.engine_events(self.model.engine, self.generation, self._client_left):
                if isinstance(event, Finished):
                    if event.reason == "cancelled":
                        raise ApiError(503, "the model was unloaded while it answered; send the request again")
                    yield self.finished(make_answer(""), event)
                elif event.text or event.logprobs:
                    self.text += event.text
                    answer = make_answer(event.text)
                    answer.logprobs = streaming.logprobs(event.logprobs)
                    yield answer
        except RequestError as error:
            raise ApiError(400, str(error)) from None

    def finished(self, answer, event: Finished):
        """The last answer: why it ended, counts, and durations in nanoseconds."""
        answer.done, answer.done_reason = True, str(event.reason)
        answer.total_duration = streaming.nanoseconds(time.monotonic() - self.plan.started)
        answer.load_duration = streaming.nanoseconds(self.loaded_at - self.plan.started)
        answer.prompt_eval_count, answer.eval_count = event.prompt_tokens, event.tokens
        answer.prompt_eval_duration = streaming.nanoseconds(event.prompt_seconds)
        answer.eval_duration = streaming.nanoseconds(event.decode_seconds)
        return answer

"""What /api/generate and /api/chat have in common: the model, its options, what it can do, and one run of its engine.

In: requests of messages.py. Out: `Plan` (before loading) and answers' parts. Raises ApiError in the words of Ollama 0.12.11.
"""

import copy
import logging
import re
import secrets
import time
from contextlib import aclosing
from dataclasses import dataclass, replace

from aiohttp import web
from vkbackend.engine.generation import tokens_kept
from vkbackend.engine.sequence import Finished, GenerationRequest, SamplingOptions, default_options
from vkbackend.errors import RequestError, VkbackendError
from vkbackend.gguf.reader import GGUFFile
from vkbackend.tokenizer.long_texts import encode_at_most

from . import go_text, jinja, output_parsers, pools, streaming
from .capabilities import capabilities
from .errors import ApiError
from .formatting import shortened
from .messages import Message
from .output_parsers import OutputParser, Parsed, ParseError
from .parameters import Options
from .store import StoredModel

log = logging.getLogger(__name__)

MAX_TOP_LOGPROBS = 20
MAX_DESCRIBED = 64
ID_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
MAX_BIAS = 100  # OpenAI's
MEANINGLESS = {
    "num_thread": "numpy's BLAS and the device's driver choose their threads; OMP_NUM_THREADS and LP_NUM_THREADS set them",
    "use_mmap": "files are always mapped, weights are copied to where they are computed",
    "use_mlock": "memory is not locked",
    "numa": "memory is placed by the system",
    "num_batch": "steps take as many tokens as the device does well with",
    "low_vram": "num_gpu says how many layers go to the device",
    "f16_kv": "OLLAMA_KV_CACHE_TYPE says what the cache holds",
}
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
    chat_template: jinja.Source | None
    started: float

    @property
    def families(self) -> list[str]:
        return self.stored.config.get("model_families") or []


@dataclass(frozen=True)
class Description:
    """What the header of a model's file tells. chat_template: the file's own chat template, where prompts are written with it."""

    architecture: str
    capabilities: list[str]
    chat_template: jinja.Source | None


def describe(stored: StoredModel) -> Description:
    """Remembered, for a manifest's digest stands for all of it."""
    if stored.digest not in _described:
        while len(_described) >= MAX_DESCRIBED:
            _described.pop(next(iter(_described)), None)  # the oldest; another thread may have been first
        _described[stored.digest] = _describe(stored)
    return _described[stored.digest]


_described: dict[str, Description] = {}


def _describe(stored: StoredModel) -> Description:
    try:
        metadata = GGUFFile.open(stored.gguf_path).metadata if stored.gguf_path else None
    except OSError as error:
        raise ApiError(500, f"{stored.name}: its file cannot be read ({error}); pull or create the model again") from None
    except VkbackendError as error:
        raise ApiError(500, str(error)) from None
    architecture = "" if metadata is None else metadata.get("general.architecture", None, "")
    return Description(architecture, capabilities(stored, metadata), jinja.found_in(stored, metadata))


async def make_plan(stored: StoredModel, ask, needed: list[str], verb: str, started: float) -> Plan:
    """Checks `needed` capabilities ("insert", "tools"...) and the options, in the order in which Ollama does.

    `verb` is what the model is asked to do, for the message where it cannot; `started` is the request's time.monotonic().
    A model that thinks does so unless told otherwise: `ask.think` becomes True.
    """
    return await pools.run("store", _plan, stored, ask, needed, verb, started)


def _plan(stored: StoredModel, ask, needed: list[str], verb: str, started: float) -> Plan:
    description = describe(stored)
    can = description.capabilities
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
    sampling = replace(sampling_options(options, asked, description.architecture), logit_bias=logit_bias(ask.options))
    log_meaningless(ask.options)
    return Plan(stored, options, sampling, can, description.chat_template, started)


def sampling_options(options: Options, asked: set[str], architecture: str) -> SamplingOptions:
    """The engine's part of the options. The default repeat penalty depends on the architecture; one that was asked for holds everywhere."""
    penalty = options.repeat_penalty if "repeat_penalty" in asked else default_options(architecture).repeat_penalty
    return SamplingOptions(
        temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, min_p=options.min_p, typical_p=options.typical_p,
        repeat_last_n=options.repeat_last_n, repeat_penalty=penalty, presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty, seed=options.seed)


def logit_bias(options: dict | None) -> dict[int, float]:
    """Of the option `logit_bias`, which is ours: token id -> what is added to its logit. Raises ApiError 400."""
    values = (options or {}).get("logit_bias") or {}
    if not isinstance(values, dict):
        raise ApiError(400, 'logit_bias must be an object of token ids and biases, such as {"5": -100}')
    for token, bias in values.items():
        if not re.fullmatch("[0-9]{1,9}", str(token)):
            raise ApiError(400, f"logit_bias: {go_text.quote(shortened(str(token)))} is no token id; keys are ids in decimal digits")
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -MAX_BIAS <= bias <= MAX_BIAS:
            raise ApiError(400, f"logit_bias: the bias of token {token} must be a number between -{MAX_BIAS} and {MAX_BIAS}")
    return {int(token): float(bias) for token, bias in values.items()}


def check_bias(plan: Plan, model):
    """Raises ApiError 400 for a token that the model does not have."""
    unknown = next((token for token in plan.sampling.logit_bias if token >= model.tokenizer.vocab_size), None)
    if unknown is not None:
        raise ApiError(400, f"logit_bias: token {unknown} is not in the model's vocabulary of {model.tokenizer.vocab_size}")


def log_meaningless(options: dict | None):
    """Options that other engines know are accepted, and the log says that they do nothing."""
    named = [name for name in MEANINGLESS if (options or {}).get(name) is not None]
    if named:
        log.info("options without meaning here: %s", "; ".join(f"{name} ({MEANINGLESS[name]})" for name in named))


def example_messages(stored: StoredModel) -> list[Message]:
    """The model's own messages, which come first in every conversation."""
    return [Message(role=str(message.get("role") or "").lower(), content=str(message.get("content") or "")) for message in stored.messages]


def refuse_think_level(ask, stored: StoredModel):
    """Levels (`"high"`) mean something to models that speak Harmony only."""
    if isinstance(ask.think, str) and output_parsers.name_of(stored) != "harmony":
        raise ApiError(400, f"think value {go_text.quote(ask.think)} is not supported for this model")


def check_format(format_text: str | None, streams: bool = False) -> str:
    """`format` as it came, JSON text -> what the engine is to hold the text to; null and "" are none. Raises ApiError for everything else that is
    neither "json" nor an object; whether an object is a schema is for the engine to say. streams: whether the answer would be a stream."""
    if not format_text or format_text in ("null", '""'):
        return ""
    if format_text != '"json"' and not format_text.startswith("{"):
        raise ApiError(500, f"invalid format: {go_text.quote(shortened(format_text))}; expected \"json\" or a valid JSON Schema object",
                       is_of_stream=streams)
    return format_text


def check_images(plan: Plan, images: int):
    """What is said of `images` images: models that have vision do not run with them yet; others, as in Ollama, get no more than their tags."""
    if not images:
        return
    if "vision" in plan.capabilities:
        raise ApiError(400, f"{plan.stored.name} sees images, but only its text part runs here yet; send the request without images")
    log.warning("%s does not see images: %d of the request are left out of its prompt but for their tags", plan.stored.name, images)


class Run:
    """One generation on a loaded model; `text` is what it has written so far, `parser` what takes it apart.

    shows_all: an answer is made of every piece; otherwise of those in which the parser finds something to show. Log-probabilities of what is
    held back come with the next answer. format None: that of the request.
    """

    def __init__(self, plan: Plan, model, ask, prompt: str, request: web.Request, parser: OutputParser | None = None, shows_all: bool = True,
                 format: str | None = None):
        check_bias(plan, model)
        self.plan, self.model, self.prompt, self.parser, self.shows_all = plan, model, prompt, parser, shows_all
        self.loaded_at = time.monotonic()
        self.text = ""
        context_length = self._context_length = min(model.context_length, plan.options.num_ctx)
        self._truncates = ask.truncate is not False
        self.generation = GenerationRequest(
            self._tokens(prompt), plan.sampling, num_predict=plan.options.num_predict, stop=plan.options.stop or [], logprobs=ask.logprobs,
            top_logprobs=ask.top_logprobs if ask.logprobs else 0, num_ctx=context_length, num_keep=plan.options.num_keep,
            shift=ask.shift is not False, truncate=ask.truncate is not False, format=check_format(ask.format) if format is None else format)
        self._client_left = lambda: streaming.has_left(request)
        self._num_calls = 0

    def _tokens(self, prompt: str) -> list[int]:
        """The prompt's tokens; of a long one that does not fit, those that the engine would keep, or one more than fit where it must not be cut."""
        most = self._context_length
        if not self._truncates:
            return encode_at_most(self.model.tokenizer, prompt, most + 1, most + 1)
        keep = tokens_kept(self.plan.options.num_keep, most, self.model.tokenizer.adds_bos, most)
        return encode_at_most(self.model.tokenizer, prompt, most, keep)

    def context_after(self) -> list[int]:
        """The tokens of the prompt and the answer, as the answer's `context` shows them; the last ones of a long prompt that did not fit."""
        return encode_at_most(self.model.tokenizer, self.prompt + self.text, self._context_length, add_special=False)

    def again(self, prompt: str, parser: OutputParser | None, format: str) -> "Run":
        """A second run in place of this one: from another prompt, held to a format. The answer's text and calls go on."""
        run = copy.copy(self)
        run.prompt, run.parser = prompt, parser
        run.generation = replace(self.generation, prompt_tokens=self._tokens(prompt), format=format)
        return run

    async def pieces(self, make_answer):
        """`make_answer(Parsed)` for each piece, with its log-probabilities, and a last one with the figures.

        Raises ApiError: a prompt that is too long where it must not be cut, one that the engine refuses, a model that goes away, a tool call that
        cannot be read.
        """
        if not self.generation.truncate and len(self.generation.prompt_tokens) > self.generation.num_ctx:
            raise ApiError(400, TOO_LONG)
        held = []  # log-probabilities of tokens that no answer has shown yet
        try:
            async with aclosing(streaming.engine_events(self.model.engine, self.generation, self._client_left)) as events:
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
                        answer.logprobs, held = streaming.logprobs(held), []
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
        answer.total_duration = streaming.nanoseconds(time.monotonic() - self.plan.started)
        answer.load_duration = streaming.nanoseconds(self.loaded_at - self.plan.started)
        answer.prompt_eval_count, answer.eval_count = event.prompt_tokens, event.tokens
        answer.prompt_eval_duration = streaming.nanoseconds(event.prompt_seconds)
        answer.eval_duration = streaming.nanoseconds(event.decode_seconds)
        return answer

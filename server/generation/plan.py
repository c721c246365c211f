"""The plan for a request: its model, the options, and the checks of what the model can do.

In: requests of `wire/native.py`. Out: a `Plan`, made before the model is loaded. Raises ApiError in the words of
Ollama 0.12.11.
"""

import logging
import re
from dataclasses import dataclass, replace

from vkbackend.engine.request import MAX_TOP_LOGPROBS, SamplingOptions, default_options
from vkbackend.errors import VkbackendError
from vkbackend.gguf.reader import GGUFFile

from .. import output_parsers, pools
from ..errors import ApiError
from ..go.human import shortened
from ..go.text import decode_utf8, quote
from ..library.capabilities import capabilities
from ..library.model import StoredModel
from ..prompts import infill, jinja
from ..wire.native import ChatRequest, GenerateRequest, Message
from ..wire.options import Options

log = logging.getLogger(__name__)

MAX_DESCRIBED = 64  # models whose description is remembered
MAX_BIAS = 100  # as in the OpenAI API
WITHOUT_EFFECT = {  # options of other engines, and the reason why they do nothing here
    "use_mmap": "files are always mapped; weights are copied to the device that computes with them",
    "use_mlock": "memory is not locked",
    "numa": "the operating system places memory",
    "num_batch": "the device determines how many tokens a step takes",
    "low_vram": "num_gpu sets how many layers go to the device",
    "f16_kv": "OLLAMA_KV_CACHE_TYPE sets the type of the cache",
}
Ask = ChatRequest | GenerateRequest


def check_top_logprobs(ask: Ask) -> None:
    """Raise ApiError 400 for a number that is out of range."""
    if not 0 <= ask.top_logprobs <= MAX_TOP_LOGPROBS:
        raise ApiError(400, f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")


@dataclass
class Plan:
    """A request's model with its options, checked against what it can do. started: time.monotonic() of the request."""

    stored: StoredModel
    options: Options
    sampling: SamplingOptions
    capabilities: list[str]
    chat_template: jinja.JinjaSource | None
    infill_marks: infill.InfillMarks | None
    started: float

    @property
    def families(self) -> list[str]:
        """The families in the model's config."""
        return self.stored.config.get("model_families") or []


@dataclass(frozen=True)
class Description:
    """What the header of a model's file says. chat_template: the file's own chat template, if prompts are written
    with it. infill_marks: the file's own tokens around a suffix, if they are used.
    """

    architecture: str
    capabilities: list[str]
    chat_template: jinja.JinjaSource | None
    infill_marks: infill.InfillMarks | None


def describe(stored: StoredModel) -> Description:
    """The description of a model, cached by its manifest's digest, which covers all of its files."""
    if stored.digest not in _described:
        while len(_described) >= MAX_DESCRIBED:
            _described.pop(next(iter(_described)), None)  # the oldest, unless another thread removed it already
        _described[stored.digest] = _describe(stored)
    return _described[stored.digest]


_described: dict[str, Description] = {}


def _describe(stored: StoredModel) -> Description:
    try:
        metadata = GGUFFile.open(stored.gguf_path).metadata if stored.gguf_path else None
    except OSError as error:
        raise ApiError(
            500, f"{stored.name}: its file cannot be read ({error}); pull or create the model again"
        ) from None
    except VkbackendError as error:
        raise ApiError(500, str(error)) from None
    architecture = "" if metadata is None else metadata.get("general.architecture", None, "")
    return Description(
        architecture,
        capabilities(stored, metadata),
        jinja.found_in(stored, metadata),
        infill.marks_of(stored, metadata),
    )


async def make_plan(stored: StoredModel, ask: Ask, needed: list[str], verb: str, started: float) -> Plan:
    """Check the `needed` capabilities ("insert", "tools"...) and the options, in the order in which Ollama does.

    `verb` is what the model is asked to do, for the error if it cannot; `started` is the request's time.monotonic().
    A model that can think does so unless told otherwise: `ask.think` becomes True.
    """
    return await pools.run("store", _plan, stored, ask, needed, verb, started)


def _plan(stored: StoredModel, ask: Ask, needed: list[str], verb: str, started: float) -> Plan:
    description = describe(stored)
    can = description.capabilities
    if "thinking" in can:
        ask.think = True if ask.think is None else ask.think
    elif ask.think:
        raise ApiError(400, f"{quote(ask.model)} does not support thinking")
    if "completion" not in can:
        raise ApiError(400, f"{quote(ask.model)} does not support {verb}")
    missing = [name for name in needed if name not in can]
    if missing:
        raise ApiError(400, f"{stored.full_name} does not support {missing[0]}")
    try:
        options = Options.defaults().update(stored.parameters).update(ask.options)
    except ValueError as error:
        raise ApiError(500, str(error)) from None
    asked = {
        name for values in (stored.parameters, ask.options or {}) for name, value in values.items() if value is not None
    }
    sampling = replace(sampling_options(options, asked, description.architecture), logit_bias=logit_bias(ask.options))
    log_options_without_effect(ask.options)
    return Plan(stored, options, sampling, can, description.chat_template, description.infill_marks, started)


def sampling_options(options: Options, asked: set[str], architecture: str) -> SamplingOptions:
    """The engine's part of the options. The default repeat penalty depends on the architecture; one that is in
    `asked` always applies.
    """
    penalty = options.repeat_penalty if "repeat_penalty" in asked else default_options(architecture).repeat_penalty
    return SamplingOptions(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        typical_p=options.typical_p,
        repeat_last_n=options.repeat_last_n,
        repeat_penalty=penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        seed=options.seed,
    )


def logit_bias(options: dict | None) -> dict[int, float]:
    """Read the option `logit_bias`, which Ollama does not have: token id -> number added to its logit. Raises
    ApiError 400.
    """
    values = (options or {}).get("logit_bias") or {}
    if not isinstance(values, dict):
        raise ApiError(400, 'logit_bias must be an object of token ids and biases, such as {"5": -100}')
    for token, bias in values.items():
        if not re.fullmatch("[0-9]{1,9}", str(token)):
            raise ApiError(
                400, f"logit_bias: {quote(shortened(str(token)))} is not a token id; keys are ids in decimal digits"
            )
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -MAX_BIAS <= bias <= MAX_BIAS:
            raise ApiError(
                400, f"logit_bias: the bias of token {token} must be a number between -{MAX_BIAS} and {MAX_BIAS}"
            )
    return {int(token): float(bias) for token, bias in values.items()}


def log_options_without_effect(options: dict | None) -> None:
    """Options of other engines are accepted; the log says that they do nothing."""
    named = [name for name in WITHOUT_EFFECT if (options or {}).get(name) is not None]
    if named:
        log.info("options without effect: %s", "; ".join(f"{name} ({WITHOUT_EFFECT[name]})" for name in named))


def example_messages(stored: StoredModel) -> list[Message]:
    """The model's own messages, which come first in every conversation."""
    return [
        Message(role=str(message.get("role") or "").lower(), content=str(message.get("content") or ""))
        for message in stored.messages
    ]


def refuse_think_level(ask: Ask, stored: StoredModel) -> None:
    """Raise ApiError 400 for a level (`"high"`) unless the model uses the Harmony format, the only one with levels."""
    if isinstance(ask.think, str) and output_parsers.name_of(stored) != "harmony":
        raise ApiError(400, f"think value {quote(ask.think)} is not supported for this model")


def check_format(format_text: str | None, streams: bool = False) -> str:
    """The request's `format`, JSON text, as the engine takes it; null and "" become "", which means none.

    Raises ApiError for anything else but "json" or an object; the engine checks whether an object is a schema.
    streams: whether the answer would be a stream.
    """
    if not format_text or format_text in ("null", '""'):
        return ""
    if format_text != '"json"' and not format_text.startswith("{"):
        raise ApiError(
            500,
            f'invalid format: {quote(shortened(format_text))}; expected "json" or a valid JSON Schema object',
            is_of_stream=streams,
        )
    return decode_utf8(format_text.encode("utf-8", "surrogateescape"))  # replaces bytes that are not UTF-8


def check_images(plan: Plan, num_images: int) -> None:
    """Refuse images for a vision model, as vision is not implemented: ApiError 400. Other models see only the images'
    [img-N] tags, as in Ollama.
    """
    if not num_images:
        return
    if "vision" in plan.capabilities:
        raise ApiError(
            400, f"{plan.stored.name} is a vision model, and vision is not implemented; send the request without images"
        )
    log.warning("%s has no vision: of %d images, the prompt holds only the tags", plan.stored.name, num_images)

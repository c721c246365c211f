"""What /api/generate and /api/chat have in common: the model, its options, what it can do, and one run of its
engine.

In: requests of messages.py. Out: `Plan` (before loading) and answers' parts. Raises ApiError in the words of Ollama
0.12.11.
"""

import logging
import re
from dataclasses import dataclass, replace

from vkbackend.engine.request import SamplingOptions, default_options
from vkbackend.errors import VkbackendError
from vkbackend.gguf.reader import GGUFFile

from .. import output_parsers, pools
from ..errors import ApiError
from ..go.human import shortened
from ..go.text import quote
from ..library.capabilities import capabilities
from ..library.store import StoredModel
from ..prompts import jinja
from ..wire.native import Message
from ..wire.options import Options

log = logging.getLogger(__name__)

MAX_TOP_LOGPROBS = 20
MAX_DESCRIBED = 64
MAX_BIAS = 100  # OpenAI's
MEANINGLESS = {
    "num_thread": "numpy's BLAS and the device's driver choose their threads; OMP_NUM_THREADS and LP_NUM_THREADS set "
    "them",
    "use_mmap": "files are always mapped, weights are copied to where they are computed",
    "use_mlock": "memory is not locked",
    "numa": "memory is placed by the system",
    "num_batch": "steps take as many tokens as the device does well with",
    "low_vram": "num_gpu says how many layers go to the device",
    "f16_kv": "OLLAMA_KV_CACHE_TYPE says what the cache holds",
}


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
    """What the header of a model's file tells. chat_template: the file's own chat template, where prompts are
    written with it.
    """

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
        raise ApiError(
            500, f"{stored.name}: its file cannot be read ({error}); pull or create the model again"
        ) from None
    except VkbackendError as error:
        raise ApiError(500, str(error)) from None
    architecture = "" if metadata is None else metadata.get("general.architecture", None, "")
    return Description(architecture, capabilities(stored, metadata), jinja.found_in(stored, metadata))


async def make_plan(stored: StoredModel, ask, needed: list[str], verb: str, started: float) -> Plan:
    """Checks `needed` capabilities ("insert", "tools"...) and the options, in the order in which Ollama does.

    `verb` is what the model is asked to do, for the message where it cannot; `started` is the request's
    time.monotonic(). A model that thinks does so unless told otherwise: `ask.think` becomes True.
    """
    return await pools.run("store", _plan, stored, ask, needed, verb, started)


def _plan(stored: StoredModel, ask, needed: list[str], verb: str, started: float) -> Plan:
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
    log_meaningless(ask.options)
    return Plan(stored, options, sampling, can, description.chat_template, started)


def sampling_options(options: Options, asked: set[str], architecture: str) -> SamplingOptions:
    """The engine's part of the options. The default repeat penalty depends on the architecture; one that was asked
    for holds everywhere.
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
    """Of the option `logit_bias`, which is ours: token id -> what is added to its logit. Raises ApiError 400."""
    values = (options or {}).get("logit_bias") or {}
    if not isinstance(values, dict):
        raise ApiError(400, 'logit_bias must be an object of token ids and biases, such as {"5": -100}')
    for token, bias in values.items():
        if not re.fullmatch("[0-9]{1,9}", str(token)):
            raise ApiError(
                400, f"logit_bias: {quote(shortened(str(token)))} is no token id; keys are ids in decimal digits"
            )
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -MAX_BIAS <= bias <= MAX_BIAS:
            raise ApiError(
                400, f"logit_bias: the bias of token {token} must be a number between -{MAX_BIAS} and {MAX_BIAS}"
            )
    return {int(token): float(bias) for token, bias in values.items()}


def log_meaningless(options: dict | None):
    """Options that other engines know are accepted, and the log says that they do nothing."""
    named = [name for name in MEANINGLESS if (options or {}).get(name) is not None]
    if named:
        log.info("options without meaning here: %s", "; ".join(f"{name} ({MEANINGLESS[name]})" for name in named))


def example_messages(stored: StoredModel) -> list[Message]:
    """The model's own messages, which come first in every conversation."""
    return [
        Message(role=str(message.get("role") or "").lower(), content=str(message.get("content") or ""))
        for message in stored.messages
    ]


def refuse_think_level(ask, stored: StoredModel):
    """Levels (`"high"`) mean something to models that speak Harmony only."""
    if isinstance(ask.think, str) and output_parsers.name_of(stored) != "harmony":
        raise ApiError(400, f"think value {quote(ask.think)} is not supported for this model")


def check_format(format_text: str | None, streams: bool = False) -> str:
    """`format` as it came, JSON text -> what the engine is to hold the text to; null and "" are none. Raises
    ApiError for everything else that is neither "json" nor an object; whether an object is a schema is for the
    engine to say. streams: whether the answer would be a stream.
    """
    if not format_text or format_text in ("null", '""'):
        return ""
    if format_text != '"json"' and not format_text.startswith("{"):
        raise ApiError(
            500,
            f'invalid format: {quote(shortened(format_text))}; expected "json" or a valid JSON Schema object',
            is_of_stream=streams,
        )
    return format_text


def check_images(plan: Plan, images: int):
    """What is said of `images` images: models that have vision do not run with them yet; others, as in Ollama, get
    no more than their tags.
    """
    if not images:
        return
    if "vision" in plan.capabilities:
        raise ApiError(
            400,
            f"{plan.stored.name} sees images, but only its text part runs here yet; send the request without images",
        )
    log.warning(
        "%s does not see images: %d of the request are left out of its prompt but for their tags",
        plan.stored.name,
        images,
    )

"""What a caller gives the engine and what it gets back: requests and events, plain data without behaviour."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, Union

import numpy as np

from .prompt import PromptItem


@dataclass(frozen=True)
class SamplingOptions:
    """How a token is taken from its logits. Names, defaults and meanings are those of Ollama 0.12.11's options.

    temperature <= 0 takes the likeliest token; top_k <= 0 keeps all; top_p, min_p and typical_p cut by probability,
    where 1, 0 and 1 keep all. repeat_penalty (1 = none), presence_penalty and frequency_penalty (0 = none) count the
    last repeat_last_n tokens, prompt included (0 = none of them, -1 = num_ctx). seed -1 draws anew each time.
    logit_bias is added to the logits before everything else.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = -1
    logit_bias: dict[int, float] = field(default_factory=dict)


# Ollama 0.12.11 runs these on its second engine, which has no penalties; the others default to 1.1.
_WITHOUT_DEFAULT_PENALTY = {
    "gemma3", "gemma3n", "gptoss", "gpt-oss", "llama4", "mistral3", "mllama",
    "qwen25vl", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe",
}  # fmt: skip


def default_options(architecture: str) -> SamplingOptions:
    """The options of a request that sets none, for a GGUF's `general.architecture`."""
    return SamplingOptions(repeat_penalty=1.0 if architecture in _WITHOUT_DEFAULT_PENALTY else 1.1)


class TokenConstraint(Protocol):
    """Restricts which tokens may come next, such as a grammar. One object serves one request."""

    def allowed(self) -> np.ndarray:
        """(vocab,) bool, of the next token. All false is an error: an ended text must allow an end token.

        Asked ahead of time, too: until `accept`, the answer is the same.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Called with each sampled token that does not end the generation."""
        ...


class Purpose(StrEnum):
    TEXT = "text"
    SCORE = "score"
    EMBEDDING = "embedding"


@dataclass(frozen=True)
class GenerationRequest:
    """One text to be continued, or to be looked at.

    prompt: token ids and `EmbeddingPart`s. Tokens' penalties, log-probabilities and `Finished.context` leave parts out.
    purpose: SCORE tells the prompt's log-probabilities (a PromptLogprobs event) and samples nothing; EMBEDDING tells
    the hidden state of its last token (an Embedding event), likewise. num_predict: tokens at most; 0 or below: ten
    times num_ctx. num_ctx: tokens of context, the runner's own where None. num_keep: tokens at the start that
    survive a cut of the prompt or a shift of the context; below 0: the whole prompt. shift: a full context drops
    half of what num_keep does not hold; otherwise generation ends with reason "length". truncate: a prompt longer
    than num_ctx loses its middle; otherwise it is refused. logprobs: each piece carries its tokens'
    log-probabilities, with the top_logprobs (0-20) likeliest beside each. format: JSON text as a request has it,
    `"json"` in quotes or a JSON schema, that the text must keep to; empty: anything goes. prompt_logprobs: a
    PromptLogprobs event comes first; the whole prompt runs anew for it.
    """

    prompt: Sequence[PromptItem]
    options: SamplingOptions = field(default_factory=SamplingOptions)
    num_predict: int = -1
    stop: Sequence[str] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    num_ctx: int | None = None
    num_keep: int = 4
    shift: bool = True
    truncate: bool = True
    constraint: TokenConstraint | None = None
    format: str = ""
    prompt_logprobs: bool = False
    purpose: Purpose = Purpose.TEXT


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithm of a token's probability under the raw logits. `bytes` are the token's own, `text` shows
    them: U+FFFD stands for each byte that is no whole character by itself. `top` are the likeliest tokens, likeliest
    first.
    """

    token_id: int
    text: str
    bytes: bytes
    logprob: float
    top: list["TokenLogprob"] = field(default_factory=list)


class FinishReason(StrEnum):
    STOP = "stop"  # an end token, or a stop string
    LENGTH = "length"  # num_predict, a full context, or a loop of equal pieces
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class PromptLogprobs:
    """How likely each token of the prompt (as it was run) was after those before it; the first one has no entry."""

    logprobs: list[TokenLogprob]


@dataclass(frozen=True)
class Embedding:
    """The prompt's last hidden state after the model's last norm, f32 (width,), not scaled."""

    vector: np.ndarray


@dataclass(frozen=True)
class Piece:
    """Text that is ready to be shown, and the log-probabilities of its tokens (none unless asked for).

    The text is empty where tokens that make no valid text have log-probabilities to report.
    """

    text: str
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True)
class Finished:
    """The last event of a generation that went well.

    prompt_tokens: of the prompt as it was run, rows of embeddings included, whether or not the cache held some of them
    tokens: sampled ones, with an end token and those cut off by a stop string
    prompt_seconds: from its first step to its first token; decode_seconds: from the first token to the last (0 for one)
    context: the tokens of the prompt as it was run, then the sampled tokens that reached the text
    end: the end token that was sampled last, if one was, where log-probabilities are asked for
    """

    reason: FinishReason
    prompt_tokens: int
    prompt_seconds: float
    tokens: int
    decode_seconds: float
    context: list[int]
    end: TokenLogprob | None = None


@dataclass(frozen=True)
class Failed:
    """The last event of a generation that did not go well."""

    exception: Exception


Event = Union[PromptLogprobs, Embedding, Piece, Finished, Failed]

"""Requests and events: what a caller submits to the engine and what it gets back. Plain data without behaviour."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np

from .prompt import PromptItem

MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True)
class SamplingOptions:
    """How a token is sampled from its logits. Names, defaults and meanings are those of Ollama 0.12.11's options.

    temperature <= 0 takes the most likely token. top_k <= 0 keeps all tokens; top_p, min_p and typical_p cut by
    probability: 1, 0 and 1 keep all. repeat_penalty (1 = none), presence_penalty and frequency_penalty (0 = none)
    apply to the last repeat_last_n tokens, prompt included (0 = no tokens, -1 = num_ctx). seed -1 takes a new random
    seed for each request. logit_bias maps token ids to numbers added to their logits before everything else.
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
    """Restricts the next token, as a grammar does. One object serves one request."""

    def allowed(self) -> np.ndarray:
        """Mask of the tokens that may come next, (vocab,) bool.

        All false is an error: a finished text must allow an end token. May be called several times between two calls
        of `accept`, with the same result.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Advance by one sampled token. End tokens are not passed."""
        ...


class Purpose(StrEnum):
    """What a request asks for: a continuation, the log-probabilities of its own tokens, or a hidden state."""

    TEXT = "text"
    SCORE = "score"
    EMBEDDING = "embedding"


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt to continue, to score or to embed.

    prompt: token ids and `EmbeddingPart`s. Tokens' penalties, log-probabilities and `Finished.context` leave parts out.
    purpose: SCORE returns the prompt's log-probabilities (a PromptLogprobs event) and samples nothing; EMBEDDING
    returns the hidden state of its last token (a PromptEmbedding event) and samples nothing.
    num_predict: maximum number of sampled tokens; 0 or below: ten times num_ctx.
    num_ctx: context length in tokens; None: the runner's.
    num_keep: number of tokens at the start that a cut of the prompt or a shift of the context keeps; below 0: the
    whole prompt.
    shift: a full context drops half of the tokens after num_keep; otherwise generation ends with reason "length".
    truncate: a prompt longer than num_ctx loses its middle; otherwise it is rejected.
    logprobs: each piece carries the log-probabilities of its tokens, each with the top_logprobs (0-20) most likely
    alternatives.
    format: the JSON text of a request's format, `"json"` in quotes or a JSON schema, that the text must match; empty:
    no restriction.
    prompt_logprobs: a PromptLogprobs event comes first. The whole prompt runs again for it, whatever is cached.
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
class ScoredToken:
    """A token and the natural logarithm of its probability under the raw logits.

    bytes: the token's bytes
    text: the same as text, with U+FFFD for each byte that is not part of a complete character
    top: the most likely tokens at this position, in descending order
    """

    token_id: int
    text: str
    bytes: bytes
    logprob: float
    top: list["ScoredToken"] = field(default_factory=list)


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # an end token, or a stop string
    LENGTH = "length"  # num_predict, a full context, or repeated equal pieces
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class PromptLogprobs:
    """Log-probability of each token of the prompt, as it was run, given those before it. The first has no entry."""

    logprobs: list[ScoredToken]


@dataclass(frozen=True)
class PromptEmbedding:
    """The prompt's last hidden state after the model's final norm, f32 (width,), not scaled."""

    vector: np.ndarray


@dataclass(frozen=True)
class Piece:
    """Text that is ready to be shown, and the log-probabilities of its tokens if the request has `logprobs`.

    The text is empty if the tokens form no valid text but have log-probabilities to report.
    """

    text: str
    logprobs: list[ScoredToken] = field(default_factory=list)


@dataclass(frozen=True)
class Finished:
    """The last event of a successful generation.

    prompt_tokens: length of the prompt as it was run, rows of embeddings included, cached or not
    tokens: number of sampled tokens, including an end token and those cut off by a stop string
    prompt_seconds: from the first step to the first token
    decode_seconds: from the first token to the last, 0 for a single one
    context: the tokens of the prompt as it was run, then the sampled tokens that reached the text
    end: the end token, if one was sampled and the request has `logprobs`
    """

    reason: FinishReason
    prompt_tokens: int
    prompt_seconds: float
    tokens: int
    decode_seconds: float
    context: list[int]
    end: ScoredToken | None = None


@dataclass(frozen=True)
class Failed:
    """The last event of a failed generation."""

    exception: Exception


Event = PromptLogprobs | PromptEmbedding | Piece | Finished | Failed

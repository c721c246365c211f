"""Perplexity: how well a model predicts a text, as the exponential of the mean of -log p over its tokens.

In: an engine and the tokens of a text. Out: `Perplexity`. A text longer than the context is scored in windows that
overlap by half, so that every token is scored once and, after the first window, follows at least half a context.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import RequestError
from .engine import Engine


@dataclass(frozen=True)
class Perplexity:
    """A model's perplexity on a text.

    num_tokens: number of scored tokens, all but the first
    mean_logprob: mean of the natural logarithms of their probabilities
    context: length of a window in tokens
    """

    num_tokens: int
    mean_logprob: float
    context: int

    @property
    def value(self) -> float:
        """exp(-mean_logprob), infinite if that exceeds a float."""
        try:
            return math.exp(-self.mean_logprob)
        except OverflowError:
            return math.inf


def windows(tokens: Sequence[int], context: int, bos_id: int | None = None) -> Iterator[tuple[list[int], int]]:
    """Yield (tokens of a window, number of trailing tokens to score in it).

    bos_id: begins the later windows, too, for models that want it
    """
    tokens = list(tokens)
    yield tokens[:context], min(context, len(tokens)) - 1
    begin = context
    stride = max(context // 2, 1)
    while begin < len(tokens):
        end = min(begin + stride, len(tokens))
        front = [] if bos_id is None else [bos_id]
        yield front + tokens[end - context + len(front) : end], end - begin
        begin = end


def perplexity(engine: Engine, tokens: Sequence[int], context: int | None = None) -> Perplexity:
    """Compute the perplexity of a text.

    context: length of a window in tokens; the engine's context length is the default and the maximum
    Raises RequestError if the text has less than two tokens, and what `Engine.score` raises.
    """
    longest = engine.runner.context_length
    context = min(context or longest, longest)
    if len(tokens) < 2 or context < 2:
        raise RequestError(
            f"a text of {len(tokens)} tokens in a context of {context} has no tokens to predict; use two or more"
        )
    tokenizer = engine.tokenizer
    total = 0.0
    count = 0
    for window, num_scored in windows(tokens, context, tokenizer.bos_id if tokenizer.adds_bos else None):
        scores = engine.score(window)[len(window) - num_scored :]
        total += math.fsum(score.logprob for score in scores if score is not None)
        count += len(scores)
    return Perplexity(count, total / count, context)

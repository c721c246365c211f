"""How well a model foresees a text: perplexity, the exponential of the mean of -log p over its tokens.

In: an engine and the tokens of a text. Out: `Perplexity`. A text that is longer than the context is scored in
windows that overlap by half, so that every token is scored once and, after the first window, has at least half a
context before it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import RequestError
from .engine import Engine


@dataclass(frozen=True)
class Perplexity:
    """num_tokens: that were scored, all but the first. mean_logprob: natural logarithm."""

    num_tokens: int
    mean_logprob: float
    context: int

    @property
    def value(self) -> float:
        return math.exp(-self.mean_logprob)


def windows(tokens: Sequence[int], context: int, bos_id: int | None = None) -> Iterator[tuple[list[int], int]]:
    """(tokens of a window, how many of its last are scored in it). bos_id: put at the front of later windows, too,
    where models want one.
    """
    tokens = list(tokens)
    yield tokens[:context], min(context, len(tokens)) - 1
    begin, stride = context, max(context // 2, 1)
    while begin < len(tokens):
        end = min(begin + stride, len(tokens))
        front = [] if bos_id is None else [bos_id]
        yield front + tokens[end - context + len(front) : end], end - begin
        begin = end


def perplexity(engine: Engine, tokens: Sequence[int], context: int | None = None) -> Perplexity:
    """context: tokens of a window, at most and by default as many as the engine's sequences hold. Raises
    RequestError, what `Engine.score` raises.
    """
    most = engine.runner.context_length
    context = min(context or most, most)
    if len(tokens) < 2 or context < 2:
        raise RequestError(
            f"a text of {len(tokens)} tokens in a context of {context} has none to be foreseen; give it two at least"
        )
    tokenizer, total, count = engine.tokenizer, 0.0, 0
    for window, num_scored in windows(tokens, context, tokenizer.bos_id if tokenizer.adds_bos else None):
        scores = engine.score(window)[len(window) - num_scored :]
        total, count = total + math.fsum(score.logprob for score in scores), count + len(scores)
    return Perplexity(count, total / count, context)

"""How likely a sampled token was: log-probabilities of the raw logits, before bias, penalties, temperature and
constraint.

In: a row of logits and the token taken from it. Out: `TokenLogprob`, natural logarithms.
"""

import codecs

import numpy as np

from ..graph.step import LogitsRow
from .request import TokenLogprob

MAX_TOP_LOGPROBS = 20


def _replace_each_byte(error: UnicodeDecodeError) -> tuple[str, int]:
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("vkbackend_replace_each_byte", _replace_each_byte)


def token_text(data: bytes) -> str:
    """A token's bytes as text, one U+FFFD for each byte that is no part of a whole character (as Go's JSON writes
    it).
    """
    return data.decode("utf-8", "vkbackend_replace_each_byte")


def logit_of(row: LogitsRow, token_id: int) -> float:
    """A token's raw logit. Reads the whole row only where the token is not among the row's largest logits."""
    place = np.flatnonzero(row.ids == token_id)
    return float(row.logits[place[0]] if len(place) else row.full()[token_id])


def token_logprob(
    row: LogitsRow, token_id: int, top_logprobs: int, tokenizer, logit: float | None = None
) -> TokenLogprob:
    """A token's log-probability, with those of the `top_logprobs` likeliest tokens, likeliest first. logit: where it
    is known already.
    """
    logit = logit_of(row, token_id) if logit is None else logit
    top = [
        _described(int(other), float(other_logit) - row.log_sum_exp, tokenizer)
        for other, other_logit in zip(row.ids[: max(top_logprobs, 0)], row.logits)
    ]
    return _described(token_id, logit - row.log_sum_exp, tokenizer, top)


def _described(token_id: int, logprob: float, tokenizer, top: list[TokenLogprob] | None = None) -> TokenLogprob:
    data = tokenizer.token_bytes(token_id)
    return TokenLogprob(token_id, token_text(data), data, logprob, top or [])

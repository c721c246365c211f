"""Log-probabilities of tokens, from the raw logits: before bias, penalties, temperature and constraint.

In: a row of logits and the sampled token. Out: `ScoredToken`, natural logarithms.
"""

import codecs

import numpy as np

from ..graph.step import LogitsRow
from ..tokenizer import Tokenizer
from .request import ScoredToken


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("vkbackend_replace_each_byte", _replace_each_byte)


def token_text(data: bytes) -> str:
    """A token's bytes as text, with U+FFFD for each byte that is not part of a complete character, as in Go's JSON."""
    return data.decode("utf-8", "vkbackend_replace_each_byte")


def logit_of(row: LogitsRow, token_id: int) -> float:
    """A token's raw logit. Reads the whole row only if the token is not among the row's candidates."""
    place = np.flatnonzero(row.ids == token_id)
    return float(row.logits[place[0]] if len(place) else row.full()[token_id])


def token_logprob(
    row: LogitsRow, token_id: int, top_logprobs: int, tokenizer: Tokenizer, logit: float | None = None
) -> ScoredToken:
    """A token's log-probability, with those of the `top_logprobs` most likely tokens in descending order.

    logit: the token's raw logit, if it is known
    """
    logit = logit_of(row, token_id) if logit is None else logit
    top = [
        _described(int(other), float(other_logit) - row.log_sum_exp, tokenizer)
        for other, other_logit in zip(row.ids[: max(top_logprobs, 0)], row.logits)
    ]
    return _described(token_id, logit - row.log_sum_exp, tokenizer, top)


def _described(
    token_id: int, logprob: float, tokenizer: Tokenizer, top: list[ScoredToken] | None = None
) -> ScoredToken:
    data = tokenizer.token_bytes(token_id)
    return ScoredToken(token_id, token_text(data), data, logprob, top or [])

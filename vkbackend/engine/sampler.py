"""One token id from one row of logits.

The chain is Ollama 0.12.11's: logit bias, penalties, top_k, temperature, softmax, typical_p, top_p, min_p, draw;
float32.

A row has only its candidates, the largest raw logits (`graph.step.LogitsRow`). They suffice if it is certain which
tokens come first: bias, penalties and a constraint change the candidates exactly, and every other token is at or below
the last candidate's logit, as long as nothing can raise it. A candidate that stays above this floor precedes all other
tokens. If the chain needs more tokens than are certain, the whole row is read.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable

import numpy as np

from ..errors import VkbackendError
from ..graph.step import LogitsRow
from .pcg import RandomDraws
from .request import SamplingOptions

_COLDEST = 1e-7  # Ollama's smallest temperature: avoids a division by 0


def apply_temperature(values: np.ndarray, temperature: float) -> np.ndarray:
    """Divide logits, float32, by the temperature: below 1 it sharpens the distribution, above it flattens."""
    return values / np.float32(max(temperature, _COLDEST))


def softmax(values: np.ndarray) -> np.ndarray:
    """Convert logits, float32, to probabilities, float32. Raises VkbackendError if there are none or they are NaN."""
    if len(values) == 0:
        raise VkbackendError("sample: no logits provided to sample")
    with np.errstate(invalid="ignore"):
        weights = np.exp(values - values.max())
        probabilities = weights / weights.sum(dtype=np.float32)
    if np.isnan(probabilities).any():
        raise VkbackendError("sample: logits sum to NaN, check model output")
    return probabilities


def count_top_k(num_values: int, k: int) -> int:
    """The number of logits that top_k keeps: all for k <= 0."""
    return num_values if k <= 0 else min(k, num_values)


def count_top_p(probabilities: np.ndarray, p: float) -> int:
    """The number of descending probabilities that top_p keeps: up to the one that takes their sum above p."""
    if p >= 1:
        return len(probabilities)
    sums = np.cumsum(probabilities, dtype=np.float32)
    return min(int(np.searchsorted(sums, np.float32(p), side="right")) + 1, len(probabilities))


def count_min_p(probabilities: np.ndarray, p: float) -> int:
    """The number of descending probabilities that min_p keeps: those of at least p times the first."""
    threshold = probabilities[0] * np.float32(p)
    return int(np.count_nonzero(probabilities >= threshold))


def keep_typical(probabilities: np.ndarray, p: float) -> np.ndarray:
    """Ascending indices of the tokens whose surprise is closest to the entropy, up to a probability sum above p.

    Meister et al., "Locally Typical Sampling" (2022).
    """
    with np.errstate(divide="ignore"):
        surprise = -np.log(probabilities)
    entropy = float(np.sum(np.where(probabilities > 0, probabilities * surprise, 0)))
    order = np.argsort(np.abs(surprise - entropy), kind="stable")
    return np.sort(order[: count_top_p(probabilities[order], p)])


def sort_descending(ids: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By value descending, ties by lower id."""
    order = np.lexsort((ids, -values))
    return ids[order], values[order]


def distribution(ids: np.ndarray, values: np.ndarray, options: SamplingOptions) -> tuple[np.ndarray, np.ndarray]:
    """Apply the chain from top_k to min_p to sorted ids and logits.

    Returns the tokens that may be drawn and their probabilities, which are not rescaled after the cuts.
    """
    count = count_top_k(len(values), options.top_k)
    ids, probabilities = ids[:count], softmax(apply_temperature(values[:count], options.temperature))
    if 0 < options.typical_p < 1:
        typical = keep_typical(probabilities, options.typical_p)
        ids, probabilities = ids[typical], probabilities[typical]
    count = count_top_p(probabilities, min(max(options.top_p, 0.0), 1.0))
    ids, probabilities = ids[:count], probabilities[:count]
    count = count_min_p(probabilities, min(max(options.min_p, 0.0), 1.0))
    return ids[:count], probabilities[:count]


def draw(ids: np.ndarray, probabilities: np.ndarray, uniform: float) -> int:
    """The token at which the cumulative probability reaches `uniform` times the total."""
    sums = np.cumsum(probabilities, dtype=np.float32)
    return int(ids[np.searchsorted(sums, np.float32(uniform) * sums[-1], side="left")])


class Sampler:
    """The sampling state of one generation: its random numbers and the tokens that penalties apply to.

    prompt: all prompt tokens
    num_ctx: the number of tokens that repeat_last_n = -1 stands for
    """

    def __init__(self, options: SamplingOptions, prompt: Iterable[int] = (), num_ctx: int = 0):
        self.options = options
        self._draws = RandomDraws(options.seed)
        # A penalty of 0 or below would divide by zero or change signs, so it counts as none.
        self._repeat = options.repeat_penalty if options.repeat_penalty > 0 else 1.0
        self._penalises = self._repeat != 1 or options.presence_penalty != 0 or options.frequency_penalty != 0
        window = num_ctx if options.repeat_last_n < 0 else options.repeat_last_n
        self._window = deque(prompt, maxlen=window if self._penalises else 0)
        self._counts = Counter(self._window)
        # Whether a token that is not a candidate could rise above the candidates.
        self._can_raise = (
            self._repeat < 1
            or options.presence_penalty < 0
            or options.frequency_penalty < 0
            or any(bias > 0 for bias in options.logit_bias.values())
        )

    def accept(self, token_id: int) -> None:
        """Remember a sampled token for the penalties."""
        if not self._window.maxlen:
            return
        if len(self._window) == self._window.maxlen:
            self._counts[self._window[0]] -= 1
            if not self._counts[self._window[0]]:
                del self._counts[self._window[0]]
        self._window.append(token_id)
        self._counts[token_id] += 1

    # Extreme options take logits beyond float32. They become infinite or NaN without a warning, as in Go, and are
    # handled as such.
    @np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")
    def sample(self, row: LogitsRow, allowed: np.ndarray | None = None) -> int:
        """The next token's id. allowed: (vocab,) bool, the mask of a constraint.

        Raises VkbackendError if the logits are NaN or no token is allowed.
        """
        if math.isnan(row.log_sum_exp):
            raise VkbackendError("sample: logits sum to NaN, check model output")
        if allowed is not None and np.count_nonzero(allowed) == 1:
            return int(np.argmax(allowed))
        greedy = self.options.temperature <= 0
        if not self._can_raise:
            ids, values, certain = self._candidates(row, allowed)
            if certain and greedy:
                return int(ids[0])
            if self._enough(values, certain):
                return draw(*distribution(ids[:certain], values[:certain], self.options), self._draws.float32())
        ids, values = self._whole_row(row, allowed)
        if greedy:
            return int(ids[0])
        return draw(*distribution(ids, values, self.options), self._draws.float32())

    def _candidates(self, row: LogitsRow, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, int]:
        """The candidates with changed logits, sorted, and how many of them certainly precede all other tokens."""
        ids, raw = row.ids, row.logits
        values = self._changed(ids, raw, allowed)
        if values is raw:
            return ids, values, len(ids)
        floor = raw[-1]
        # Other tokens at the floor have higher ids than the unchanged candidates there, so they come after them.
        certain = (values > floor) | ((values == floor) & (raw == floor))
        order = np.lexsort((ids, -values))
        ids, values, certain = ids[order], values[order], certain[order]
        uncertain = np.flatnonzero(~certain)
        return ids, values, int(uncertain[0]) if len(uncertain) else len(ids)

    def _enough(self, values: np.ndarray, certain: int) -> bool:
        """Whether the chain after the penalties needs only the first `certain` tokens."""
        options = self.options
        if certain == 0:
            return False
        if 0 < options.top_k <= certain:
            return True
        # Without a cut by sums, only min_p decides, and it depends on the first token's logit alone.
        if options.top_p < 1 or 0 < options.typical_p < 1 or not 0 < options.min_p <= 1:
            return False
        below = math.exp(min(0.0, float(values[certain - 1] - values[0]) / max(options.temperature, _COLDEST)))
        return below < options.min_p * 0.999  # a margin for float32's rounding

    def _whole_row(self, row: LogitsRow, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        raw = np.asarray(row.full(), np.float32)
        ids = np.arange(len(raw), dtype=np.int32)
        values = self._changed(ids, raw, None)
        if allowed is not None:
            ids = np.flatnonzero(allowed).astype(np.int32)
            values = values[ids]
        top_k = self.options.top_k if self.options.temperature > 0 else 1
        if 0 < top_k < len(values):  # sorting a few beats sorting the vocabulary
            kept = values >= np.partition(values, len(values) - top_k)[len(values) - top_k]
            ids, values = ids[kept], values[kept]
        ids, values = sort_descending(ids, values)
        if not len(values) or values[0] == -np.inf:
            raise VkbackendError("sample: no token is allowed here; the logits or the constraint exclude them all")
        return ids, values

    def _changed(self, ids: np.ndarray, raw: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
        """Logits after bias, penalties and constraint: `raw` itself if nothing changes, else a new array."""
        values = raw
        bias, counts = self.options.logit_bias, self._counts
        if bias or counts:
            touched = self._places(ids, bias.keys() | counts.keys() if bias else counts)
            if touched:
                values = raw.copy()
            for token_id, index in touched:
                values[index] = self._penalised(float(values[index]) + bias.get(token_id, 0.0), counts.get(token_id, 0))
        if allowed is not None:
            values = np.where(allowed[ids], values, np.float32(-np.inf))
        return values

    @staticmethod
    def _places(ids: np.ndarray, wanted: Iterable[int]) -> list[tuple[int, int]]:
        """(token, index in ids) of each wanted token in ids, which are candidates or the whole vocabulary in order."""
        if ids[0] == 0 and ids[-1] == len(ids) - 1 and np.array_equal(ids, np.arange(len(ids))):
            return [(token_id, token_id) for token_id in wanted if 0 <= token_id < len(ids)]
        places = {token_id: index for index, token_id in enumerate(ids.tolist())}
        return [(token_id, places[token_id]) for token_id in wanted if token_id in places]

    def _penalised(self, logit: float, count: int) -> float:
        if count == 0:
            return logit
        logit = logit / self._repeat if logit > 0 else logit * self._repeat
        return logit - count * self.options.frequency_penalty - self.options.presence_penalty

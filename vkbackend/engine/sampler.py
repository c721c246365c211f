"""One token id from one row of logits.

The chain is Ollama 0.12.11's: logit bias, penalties, top_k, temperature, softmax, typical_p, top_p, min_p, draw. From
top_k on it is in `distribution.py`.

A row has only its candidates, the largest raw logits (`graph.step.LogitsRow`). They suffice if it is certain which
tokens come first: bias, penalties and a constraint change the candidates exactly, and every other token is at or below
the last candidate's logit, as long as nothing can raise it. A candidate that stays above this floor precedes all other
tokens. If the chain needs more tokens than are certain, the whole row is read.
"""

import math
from collections import deque
from collections.abc import Iterable

import numpy as np

from ..errors import VkbackendError
from ..graph.step import LogitsRow
from .distribution import CHUNK, COLDEST, UnsortedDraws, candidates_of, draw_sorted, sort_descending
from .pcg import RandomDraws
from .request import SamplingOptions

_MOST_SORTED = 4096  # rows of at most as many tokens are sorted: faster than what longer ones need
_INFINITY_BITS = np.int32(0x7F800000)  # of a float32


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
        tokens = np.fromiter(self._window, np.intp, len(self._window))
        self._counts = np.bincount(tokens).astype(np.int32)  # by token id, up to the largest that occurred
        self._biased = np.array(sorted(options.logit_bias), np.intp)
        self._biases = np.array([options.logit_bias[token_id] for token_id in sorted(options.logit_bias)], np.float64)
        self._unsorted_draws = UnsortedDraws()
        self._row = np.zeros(0, np.float32)  # of `_whole_row`
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
        self._window.append(token_id)
        if token_id >= len(self._counts):
            self._counts = np.pad(self._counts, (0, 2 * token_id + 1 - len(self._counts)))
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
                return draw_sorted(ids[:certain], values[:certain], self.options, self._draws.float32())
        values = self._whole_row(row, allowed)
        if greedy:
            return int(np.argmax(values))
        ids = self._few_candidates(values, allowed)
        if ids is None:
            return self._unsorted_draws.draw(values, self.options, self._draws.float32())
        return draw_sorted(*sort_descending(ids, values[ids]), self.options, self._draws.float32())

    def _few_candidates(self, values: np.ndarray, allowed: np.ndarray | None) -> np.ndarray | None:
        """Ascending indices of the logits that may be drawn; None if they are too many to sort."""
        if (len(values) if allowed is None else np.count_nonzero(allowed)) <= _MOST_SORTED:
            return np.flatnonzero(values > -np.inf)
        if 0 < self.options.top_k <= _MOST_SORTED:
            found = candidates_of(values, self.options.top_k)
            return found if len(found) <= _MOST_SORTED else None
        return None

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
        below = math.exp(min(0.0, float(values[certain - 1] - values[0]) / max(options.temperature, COLDEST)))
        return below < options.min_p * 0.999  # a margin for float32's rounding

    def _whole_row(self, row: LogitsRow, allowed: np.ndarray | None) -> np.ndarray:
        """All logits after bias, penalties and constraint. They may be overwritten by the next call."""
        raw = np.asarray(row.full(), np.float32)
        values = raw
        if len(self._biased) or len(self._counts) or allowed is not None:
            if len(self._row) != len(raw):
                self._row = np.empty_like(raw)
            values = self._row
            np.copyto(values, raw)
            self._penalise_row(raw, values)
        if allowed is not None:
            for start in range(0, len(raw), CHUNK):
                chunk = slice(start, start + CHUNK)
                np.minimum(values[chunk], _largest_allowed(allowed[chunk]), out=values[chunk])
        largest = values.max(initial=-np.inf)
        if largest == -np.inf:
            raise VkbackendError("sample: no token is allowed here; the logits or the constraint exclude them all")
        if math.isnan(largest):
            raise VkbackendError("sample: logits sum to NaN, check model output")
        return values

    def _penalise_row(self, raw: np.ndarray, values: np.ndarray) -> None:
        """Set `values`, a copy of the row `raw`, to the logits after bias and penalties."""
        for start in range(0, min(len(self._counts), len(raw)), CHUNK):
            counts = self._counts[start : min(start + CHUNK, len(raw))]
            logits = values[start : start + len(counts)]
            counted = counts != 0
            if 8 * np.count_nonzero(counted) < len(counts):
                places = np.flatnonzero(counted)
                logits[places] = self._penalised(logits[places].astype(np.float64), counts[places])
            else:
                logits[:] = self._penalised(logits.astype(np.float64), counts)
        biased = self._biased[(self._biased >= 0) & (self._biased < len(raw))]
        values[biased] = self._penalised(raw[biased] + self._biases_of(biased), self._counts_of(biased))

    def _changed(self, ids: np.ndarray, raw: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
        """Candidates' logits after bias, penalties and constraint: `raw` itself if nothing changes, or a new array."""
        values = raw
        if len(self._biased) or len(self._counts):
            counts, biases = self._counts_of(ids), self._biases_of(ids)
            if (counts > 0).any() or biases.any():
                values = self._penalised(raw + biases, counts).astype(np.float32)
        if allowed is not None:
            values = np.where(allowed[ids], values, np.float32(-np.inf))
        return values

    def _counts_of(self, ids: np.ndarray) -> np.ndarray:
        """How often each token occurs among those that penalties apply to."""
        if not len(self._counts):
            return np.zeros(len(ids), np.int32)
        return np.where(ids < len(self._counts), self._counts.take(ids, mode="clip"), 0)

    def _biases_of(self, ids: np.ndarray) -> np.ndarray:
        """The bias of each token, float64."""
        if not len(self._biased):
            return np.zeros(len(ids))
        places = np.minimum(np.searchsorted(self._biased, ids), len(self._biased) - 1)
        return np.where(self._biased[places] == ids, self._biases[places], 0.0)

    def _penalised(self, logits: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Apply the penalties to the logits, float64, of tokens that occur `counts` times."""
        counted = (counts > 0).view(np.uint8)  # indices into arrays of two: much faster than np.where
        if self._repeat != 1:  # divides positive logits and multiplies negative ones
            repeat = np.array([1.0, self._repeat]).take(counted, mode="clip")
            chosen = np.minimum if self._repeat > 1 else np.maximum
            logits = chosen(logits / repeat, logits * repeat)
        if self.options.frequency_penalty:
            logits = logits - counts * self.options.frequency_penalty
        if self.options.presence_penalty:
            logits = logits - np.array([0.0, self.options.presence_penalty]).take(counted, mode="clip")
        return logits


def _largest_allowed(allowed: np.ndarray) -> np.ndarray:
    """Infinity for tokens that are allowed, else -infinity, float32: their bits, much faster than np.where."""
    signs = allowed.view(np.int8).astype(np.int32)
    signs -= 1
    signs <<= 31
    signs |= _INFINITY_BITS
    return signs.view(np.float32)

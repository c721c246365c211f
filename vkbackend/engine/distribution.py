"""The distribution that a token is drawn from: the chain from top_k to min_p, and the draw.

In: token ids, their logits after bias, penalties and constraint, and a uniform random number. Out: the drawn token.

Definition: tokens are in descending order of logit, ties by lower id. Logits are divided by the temperature, and their
differences to the largest are exponentiated, in float32; these weights are summed in float64. top_k, top_p and min_p
each keep a beginning of the order, so the draw depends only on sums of beginnings. `draw_sorted` is this definition.
`UnsortedDraws` returns the same tokens for a whole vocabulary and sorts only the few tokens around each boundary.
"""

from typing import Literal

import numpy as np

from ..errors import VkbackendError
from .request import SamplingOptions

COLDEST = 1e-7  # Ollama's smallest temperature: avoids a division by 0
_UNDERFLOW = -104.0  # exp of anything below it is 0 in float32
_NUM_BINS = 1 << 12
_BLOCK = 64  # tokens of which one is looked at in search of the k largest
CHUNK = 1 << 14  # items at a time: temporary arrays that the allocator gets from the system cost more than the sums
# Spread, since adding up takes several times as long where many tokens, such as those that a constraint excludes, share
# a bin.
_FLOORS = np.float32(_UNDERFLOW) - np.arange(CHUNK, dtype=np.float32) % 64
_LEAST = 5e-324  # the smallest positive float64


def apply_temperature(values: np.ndarray, temperature: float) -> np.ndarray:
    """Divide logits, float32, by the temperature: below 1 it sharpens the distribution, above it flattens."""
    return values / np.float32(max(temperature, COLDEST))


def below_largest(values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Differences to the largest logit, float32: the logarithms of the weights. Raises VkbackendError if there are no
    logits or they are NaN or infinite.
    """
    if len(values) == 0:
        raise VkbackendError("sample: no logits provided to sample")
    with np.errstate(invalid="ignore"):
        differences = np.subtract(values, values.max(), out=out)
        if np.isnan(differences.min()):
            raise VkbackendError("sample: logits sum to NaN, check model output")
    return differences


def count_top_k(num_values: int, k: int) -> int:
    """The number of logits that top_k keeps: all for k <= 0."""
    return num_values if k <= 0 else min(k, num_values)


def count_top_p(weights: np.ndarray, limit: float) -> int:
    """The number of descending weights that top_p keeps: up to the one that takes their sum above `limit`."""
    sums = np.cumsum(weights, dtype=np.float64)
    return min(int(np.searchsorted(sums, limit, side="right")) + 1, len(weights))


def count_min_p(weights: np.ndarray, p: float) -> int:
    """The number of descending weights that min_p keeps: those of at least p times the first."""
    return int(np.count_nonzero(weights >= np.float32(p) * weights[0]))


def _clamped(p: float) -> float:
    return min(max(p, 0.0), 1.0)


def limit_of(p: float, total: float) -> float:
    """p times the sum of all weights. p is a float32, as in Ollama; 1 keeps everything."""
    return float(np.float32(_clamped(p))) * total if p < 1 else np.inf


def _keeps_typical(options: SamplingOptions) -> bool:
    return 0 < options.typical_p < 1


def _deviations(scaled: np.ndarray, weights: np.ndarray, total: float, out: np.ndarray | None = None) -> np.ndarray:
    """Distance of each token's surprise from the entropy, which is that of its log-weight from their mean, float32.

    scaled: logarithms of the weights, finite. Meister et al., "Locally Typical Sampling" (2022).
    """
    mean = 0.0
    for start in range(0, len(weights), CHUNK):
        chunk = slice(start, start + CHUNK)
        mean += float(np.dot(weights[chunk].astype(np.float64), scaled[chunk]))
    deviations = np.subtract(scaled, np.float32(mean / total), out=out)
    return np.abs(deviations, out=deviations)


def keep_typical(scaled: np.ndarray, weights: np.ndarray, p: float) -> np.ndarray:
    """Ascending indices of the tokens whose surprise is closest to the entropy, up to a sum of probabilities above p.

    scaled: logarithms of the weights, descending
    """
    total = float(weights.sum(dtype=np.float64))
    finite = np.maximum(scaled, _UNDERFLOW)  # weights below it are 0
    order = np.argsort(_deviations(finite, weights, total), kind="stable")
    return np.sort(order[: count_top_p(weights[order], limit_of(p, total))])


def candidates_of(values: np.ndarray, k: int) -> np.ndarray:
    """Ascending indices of the k > 0 largest values, and of some more: of all that are at least the k-th largest of the
    maxima of blocks. Of all values if there are too few blocks.
    """
    num_blocks = len(values) // _BLOCK
    if k > num_blocks:
        return np.arange(len(values))
    maxima = values[: num_blocks * _BLOCK].reshape(num_blocks, _BLOCK).max(axis=1)
    return np.flatnonzero(values >= np.partition(maxima, num_blocks - k)[num_blocks - k])


def sort_descending(ids: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By value descending, ties by lower id."""
    order = np.lexsort((ids, -values))
    return ids[order], values[order]


def distribution(ids: np.ndarray, values: np.ndarray, options: SamplingOptions) -> tuple[np.ndarray, np.ndarray, float]:
    """Apply the chain from top_k to min_p to sorted ids and logits.

    Returns the tokens that may be drawn, their weights, float32, and the sum of the weights before typical_p, top_p and
    min_p, by which the weights are probabilities.
    """
    count = count_top_k(len(values), options.top_k)
    ids, scaled = ids[:count], below_largest(apply_temperature(values[:count], options.temperature))
    weights = np.exp(scaled)
    total = float(weights.sum(dtype=np.float64))
    if _keeps_typical(options):
        typical = keep_typical(scaled, weights, options.typical_p)
        ids, weights = ids[typical], weights[typical]
    count = count_top_p(weights, limit_of(options.top_p, total))
    count = min(count, count_min_p(weights, _clamped(options.min_p)))
    return ids[:count], weights[:count], total


def draw_sorted(ids: np.ndarray, values: np.ndarray, options: SamplingOptions, uniform: float) -> int:
    """The token at which the sum of the kept weights reaches `uniform` (0 <= uniform < 1) times their total.

    ids, values: sorted by `sort_descending`
    """
    ids, weights, _ = distribution(ids, values, options)
    sums = np.cumsum(weights, dtype=np.float64)
    return int(ids[np.searchsorted(sums, uniform * sums[-1], side="left")])


class _Order:
    """Items in descending order of their keys, ties by descending values, then by index.

    Places in it are found without sorting all items: their weights are summed by bins of the keys, and only the bin of
    the place is sorted. Items of weight 0 are never drawn.

    keys: finite, float32. bins: int16, as long as the keys; it is overwritten
    """

    def __init__(self, keys: np.ndarray, values: np.ndarray, weights: np.ndarray, bins: np.ndarray):
        self._keys = keys
        self._values = values
        self._weights = weights
        self._bins = bins
        sums = np.zeros(_NUM_BINS)
        high, low = keys.max(), keys.min()
        scale = np.float32((_NUM_BINS - 1) / (high - low) if high > low else 0.0)
        for start in range(0, len(keys), CHUNK):
            chunk = slice(start, start + CHUNK)
            numbers = ((high - keys[chunk]) * scale).astype(np.intp)
            bins[chunk] = numbers
            sums += np.bincount(numbers, weights[chunk], _NUM_BINS)
        self._last = int(np.flatnonzero(sums)[-1])  # items of weight 0, which may be many, are not sorted
        self._sums = np.cumsum(sums)
        self.total = float(self._sums[-1])

    def item_at(self, limit: float) -> int:
        """The index of the first item of positive weight at which the sum of weights reaches the limit."""
        return int(self._place(max(limit, _LEAST), "left")[1][-1])

    def sum_above(self, limit: float) -> float:
        """The smallest sum of weights of a beginning that exceeds the limit; the sum of all if none does."""
        return self._place(limit, "right")[2]

    def sum_of_first(self, count: int) -> float:
        """The sum of the first `count` weights, of at least as many."""
        bin_number, items = self._first(count)
        before = float(self._sums[bin_number - 1]) if bin_number else 0.0
        return before + float(self._weights[items].sum(dtype=np.float64))

    def are_first(self, count: int) -> np.ndarray:
        """Which items are the first `count`, of at least as many: a mask."""
        return self._up_to(*self._first(count))

    def are_up_to_sum(self, limit: float) -> np.ndarray:
        """Which items come no later than that at which the sum of weights exceeds the limit: a mask. If none does,
        those of weight 0 at the end may be left out.
        """
        bin_number, items, _ = self._place(limit, "right")
        return self._up_to(bin_number, items)

    def _place(self, limit: float, side: Literal["left", "right"]) -> tuple[int, np.ndarray, float]:
        """Where the sum of weights reaches the limit (side "left") or exceeds it ("right").

        Returns (a bin, the bin's items up to that place, the sum there). The place is at the end if no sum does.
        """
        bin_number = min(int(np.searchsorted(self._sums, limit, side)), self._last)
        items = self._sorted(bin_number)
        before = self._sums[bin_number - 1] if bin_number else 0.0
        sums = before + np.cumsum(self._weights[items], dtype=np.float64)
        count = min(int(np.searchsorted(sums, limit, side)) + 1, len(items))
        return bin_number, items[:count], float(sums[count - 1])

    def _first(self, count: int) -> tuple[int, np.ndarray]:
        """The bin of item number `count`, and the bin's items up to that one."""
        counts = np.zeros(_NUM_BINS, np.intp)
        for start in range(0, len(self._bins), CHUNK):
            counts += np.bincount(self._bins[start : start + CHUNK], minlength=_NUM_BINS)
        sums = np.cumsum(counts)
        bin_number = int(np.searchsorted(sums, count))
        before = int(sums[bin_number - 1]) if bin_number else 0
        return bin_number, self._sorted(bin_number)[: count - before]

    def _sorted(self, bin_number: int) -> np.ndarray:
        """The indices of a bin's items in order."""
        inside = np.flatnonzero(self._bins == bin_number)
        keys, values = self._keys[inside], self._values[inside]
        if values.min() == values.max() and keys.min() == keys.max():
            return inside
        return inside[np.lexsort((-values, -keys))]

    def _up_to(self, bin_number: int, items: np.ndarray) -> np.ndarray:
        """Which items are in bins before `bin_number`, or among `items`: a mask."""
        kept = self._bins < bin_number
        kept[items] = True
        return kept


def _kept_total(order: _Order, weights: np.ndarray, total: float, options: SamplingOptions) -> float:
    """The sum of the weights that top_p and min_p keep. total: by which top_p is measured"""
    kept_total = order.sum_above(limit_of(options.top_p, total))
    if options.min_p <= 0:
        return kept_total
    likely = weights * (weights >= np.float32(_clamped(options.min_p)) * weights.max())
    return min(kept_total, float(likely.sum(dtype=np.float64)))


def _only(
    kept: np.ndarray, indices: np.ndarray, scaled: np.ndarray, values: np.ndarray, weights: np.ndarray
) -> list[np.ndarray]:
    """The arrays without the tokens that are not `kept`, a mask; or with weight 0 for these tokens where they are few:
    then copies cost more than they save.
    """
    if 4 * np.count_nonzero(kept) >= len(kept):
        weights *= kept
        return [indices, scaled, values, weights]
    places = np.flatnonzero(kept)
    return [each[places] for each in (indices, scaled, values, weights)]


class UnsortedDraws:
    """Draws as `draw_sorted` does, in time proportional to the number of tokens. Keeps its arrays between draws."""

    def __init__(self) -> None:
        self._scaled = np.zeros(0, np.float32)
        self._weights = np.zeros(0, np.float32)
        self._deviations = np.zeros(0, np.float32)
        self._bins = np.zeros(0, np.int16)
        self._indices = np.zeros(0, np.int32)

    def draw(self, values: np.ndarray, options: SamplingOptions, uniform: float) -> int:
        """The index of the drawn token. values: logits in ascending order of their tokens' ids."""
        self._make_room(len(values))
        scaled, weights = self._scaled[: len(values)], self._weights[: len(values)]
        np.divide(values, np.float32(max(options.temperature, COLDEST)), out=scaled)
        below_largest(scaled, out=scaled)
        for start in range(0, len(scaled), CHUNK):  # infinite keys have no bin, and these weights are 0 anyway
            chunk = scaled[start : start + CHUNK]
            np.maximum(chunk, _FLOORS[: len(chunk)], out=chunk)
        np.exp(scaled, out=weights)
        # Tokens of weight 0 are never drawn, so that their order does not matter.
        cuts_count = options.top_k > 0 and options.top_k < np.count_nonzero(weights > 0)
        if _keeps_typical(options):
            return self._draw_typical(scaled, values, weights, options, uniform, options.top_k if cuts_count else 0)
        order = self._order(scaled, values, weights)
        total = order.sum_of_first(options.top_k) if cuts_count else order.total
        return order.item_at(uniform * min(total, _kept_total(order, weights, total, options)))

    def _draw_typical(
        self,
        scaled: np.ndarray,
        values: np.ndarray,
        weights: np.ndarray,
        options: SamplingOptions,
        uniform: float,
        top_k: int,
    ) -> int:
        """`draw` where typical_p cuts. scaled: logarithms of the weights. top_k: 0 if it cuts nothing"""
        tokens = [self._indices[: len(values)], scaled, values, weights]
        if top_k:
            tokens = _only(self._order(*tokens[1:]).are_first(top_k), *tokens)
        _, scaled, values, weights = tokens
        total = float(weights.sum(dtype=np.float64))
        deviations = _deviations(scaled, weights, total, self._deviations[: len(scaled)])
        order = self._order(np.negative(deviations, out=deviations), values, weights)
        indices, *rest = _only(order.are_up_to_sum(limit_of(options.typical_p, total)), *tokens)
        order = self._order(*rest)
        return int(indices[order.item_at(uniform * _kept_total(order, rest[-1], total, options))])

    def _order(self, keys: np.ndarray, values: np.ndarray, weights: np.ndarray) -> _Order:
        return _Order(keys, values, weights, self._bins[: len(keys)])

    def _make_room(self, count: int) -> None:
        if len(self._bins) < count:
            self._scaled = np.zeros(count, np.float32)
            self._weights = np.zeros(count, np.float32)
            self._deviations = np.zeros(count, np.float32)
            self._bins = np.zeros(count, np.int16)
            self._indices = np.arange(count, dtype=np.int32)

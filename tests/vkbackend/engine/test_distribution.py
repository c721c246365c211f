"""Draws from a whole vocabulary equal those of a full sort, and no option makes a token's sampling grow with the
context or sort the vocabulary.
"""

import time
from statistics import median

import numpy as np
import pytest
from fake_runner import logits_row

from vkbackend.engine.distribution import UnsortedDraws, candidates_of
from vkbackend.engine.pcg import RandomDraws
from vkbackend.engine.request import SamplingOptions
from vkbackend.engine.sampler import Sampler

VOCABULARY = 262_144
NUM_SEEDS = 10_000


class FullSort:
    """The definition: tokens in descending order of logit, ties by lower id, weights in float32, sums in float64."""

    def __init__(self, logits: np.ndarray, options: SamplingOptions):
        order = np.lexsort((np.arange(len(logits)), -logits))
        if options.top_k > 0:
            order = order[: options.top_k]
        scaled = logits[order] / np.float32(options.temperature)
        weights = np.exp(scaled - scaled[0])
        total = np.sum(weights, dtype=np.float64)
        if options.typical_p < 1:
            possible = weights > 0
            mean = np.sum(weights[possible].astype(np.float64) * (scaled - scaled[0])[possible]) / total
            nearest = np.argsort(np.abs(scaled - scaled[0] - np.float32(mean)), kind="stable")
            sums = np.cumsum(weights[nearest], dtype=np.float64)
            kept = np.sort(nearest[: np.count_nonzero(sums <= np.float32(options.typical_p) * total) + 1])
            order, weights = order[kept], weights[kept]
        count = len(weights)
        if options.top_p < 1:
            sums = np.cumsum(weights, dtype=np.float64)
            count = np.count_nonzero(sums <= float(np.float32(options.top_p)) * total) + 1
        count = min(count, np.count_nonzero(weights >= np.float32(options.min_p) * weights[0]))
        self.tokens = order[:count]
        self.sums = np.cumsum(weights[:count], dtype=np.float64)

    def draw(self, uniform: float) -> int:
        return int(self.tokens[np.searchsorted(self.sums, uniform * self.sums[-1])])


def rows(size: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    normal = random.standard_normal(size)
    found = {
        "usual": 3 * normal,
        "flat": 0.1 * normal,
        "one likely token": np.concatenate([2 * normal[:-1], [14]]),
        "unused tokens": np.where(np.arange(size) % 3 == 0, -90, normal),
        "impossible tokens": np.where(np.arange(size) % 5 == 0, -np.inf, 2 * normal),
        "ties": (3 * normal).round(),
        "all equal": np.zeros(size),
    }
    return {name: logits.astype(np.float32) for name, logits in found.items()}


CUTS = {
    "top_p": {},
    "nothing": dict(top_p=1.0),
    "min_p": dict(top_p=1.0, min_p=0.01),
    "top_p and min_p": dict(top_p=0.95, min_p=0.002),
    "many": dict(top_k=7000),
    "many, cut again": dict(top_k=5000, top_p=0.5, min_p=0.05),
    "typical_p": dict(typical_p=0.6, top_p=1.0),
    "typical_p and others": dict(typical_p=0.8, top_k=8_000, top_p=0.7, min_p=0.001),
    "hot": dict(temperature=3.0),
    "cold": dict(temperature=0.02),
}


def assert_equal_draws(logits: np.ndarray, options: SamplingOptions, seeds: range):
    sorted_row, draws = FullSort(logits, options), UnsortedDraws()
    for seed in seeds:
        uniform = RandomDraws(seed).float32()
        assert draws.draw(logits, options, uniform) == sorted_row.draw(uniform), seed


@pytest.mark.parametrize("name", rows(1))
def test_draws_without_a_sort_equal_those_of_a_full_sort(name):
    per_cut = NUM_SEEDS // len(rows(1)) // len(CUTS) + 1
    logits = rows(10_000)[name]
    for number, cuts in enumerate(CUTS.values()):
        options = SamplingOptions(**{"temperature": 1.0, "top_k": 0, **cuts})
        assert_equal_draws(logits, options, range(number * per_cut, (number + 1) * per_cut))


def test_draws_from_a_large_vocabulary_equal_those_of_a_full_sort():
    for logits in rows(VOCABULARY).values():
        assert_equal_draws(logits, SamplingOptions(top_k=0), range(15))


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_the_ends_of_the_order_can_be_drawn(uniform):
    for name, logits in rows(10_000).items():
        for cut in CUTS.values():
            options = SamplingOptions(**{"temperature": 1.0, "top_k": 0, **cut})
            assert UnsortedDraws().draw(logits, options, uniform) == FullSort(logits, options).draw(uniform), name


@pytest.mark.parametrize("k", [1, 40, 155, 156, 7_000, 10_000])
def test_the_k_largest_are_found_without_a_sort(k):
    for name, logits in rows(10_000).items():
        found = candidates_of(logits, k)
        largest = np.lexsort((np.arange(len(logits)), -logits))[:k]
        assert np.isin(largest, found).all() and (np.diff(found) > 0).all(), name
    assert len(candidates_of(rows(VOCABULARY)["usual"], 40)) < 100


@pytest.mark.parametrize("top_k", [0, 40, 2_000])
def test_a_sampler_draws_from_a_whole_row_what_a_full_sort_gives(top_k):
    """Also with a mask, penalties and biases."""
    logits = rows(20_000)["usual"]
    allowed = np.arange(len(logits)) % 4 > 0
    options = SamplingOptions(
        top_k=top_k, repeat_penalty=1.3, frequency_penalty=0.2, logit_bias={5: 2.0, 6: -100.0, 19_999: 1.5}
    )
    prompt = [3, 5, 5, 5, 7000, 19_999]
    changed = logits.astype(np.float64)
    for token, bias in options.logit_bias.items():
        changed[token] += bias
    for token in set(prompt):
        changed[token] = changed[token] / 1.3 if changed[token] > 0 else changed[token] * 1.3
        changed[token] -= 0.2 * prompt.count(token)
    expected = FullSort(np.where(allowed, changed, -np.inf).astype(np.float32), options)
    for seed in range(100):
        sampler = Sampler(SamplingOptions(**{**vars(options), "seed": seed}), prompt)
        assert sampler.sample(logits_row(logits), allowed) == expected.draw(RandomDraws(seed).float32())


# Time.

MATRIX = {
    "default": {},
    "greedy": dict(temperature=0),
    "top_k 0": dict(top_k=0),
    "top_k 0, no penalty": dict(top_k=0, repeat_penalty=1.0),
    "top_k 300": dict(top_k=300),
    "top_k 100,000": dict(top_k=100_000),
    "top_p 1": dict(top_k=0, top_p=1.0),
    "min_p": dict(top_k=0, top_p=1.0, min_p=1e-7),
    "hot": dict(top_k=0, temperature=2.0),
    "typical_p": dict(top_k=0, typical_p=0.5),
    "typical_p of 40": dict(typical_p=0.5),
    "all tokens repeat": dict(repeat_last_n=-1),
    "all tokens, top_k 0": dict(repeat_last_n=-1, top_k=0),
    "presence and frequency": dict(repeat_last_n=-1, presence_penalty=0.5, frequency_penalty=0.1),
    "rewards": dict(repeat_last_n=-1, presence_penalty=-0.5, frequency_penalty=-0.1, repeat_penalty=0.9),
    "bias down": dict(logit_bias=dict.fromkeys(range(300), -5.0)),
    "bias up": dict(logit_bias=dict.fromkeys(range(300), 5.0)),
    "bias up, top_k 0": dict(logit_bias=dict.fromkeys(range(300), 5.0), top_k=0),
    "all cuts": dict(top_k=100_000, typical_p=0.9, top_p=0.95, min_p=1e-6),
    "all cuts, 8,000": dict(top_k=8_000, typical_p=0.9, top_p=0.95, min_p=1e-6),
    "seeded": dict(seed=5),
}
SHORT, LONG = 1_000, 128_000


def milliseconds(samplers: list[Sampler], row, allowed: np.ndarray | None) -> list[float]:
    """Processor time of a token of each sampler: the least of several, interleaved."""
    times: list[list[float]] = [[] for _ in samplers]
    for _ in range(5):
        for sampler, own in zip(samplers, times):
            start = time.thread_time()
            sampler.accept(sampler.sample(row, allowed))
            own.append(1e3 * (time.thread_time() - start))
    return [min(own) for own in times]


@pytest.fixture(scope="module")
def sort_milliseconds() -> float:
    """Of a full sort of the vocabulary."""
    logits, times = rows(VOCABULARY)["usual"], []
    for _ in range(3):
        start = time.thread_time()
        np.lexsort((np.arange(VOCABULARY), -logits))
        times.append(1e3 * (time.thread_time() - start))
    return min(times)


@pytest.mark.parametrize("with_mask", [False, True], ids=["free", "constrained"])
def test_no_option_sorts_the_vocabulary_or_grows_with_the_context(with_mask, sort_milliseconds, record_figure):
    random = np.random.default_rng(4)
    row = logits_row(rows(VOCABULARY)["usual"])
    allowed = random.random(VOCABULARY) < 0.5 if with_mask else None
    prompt = random.integers(0, VOCABULARY, LONG).tolist()
    times = {}
    for name, options in MATRIX.items():
        samplers = [Sampler(SamplingOptions(**options), tokens, LONG) for tokens in (prompt[:SHORT], prompt)]
        times[name] = milliseconds(samplers, row, allowed)
    slowest = max(times, key=lambda name: times[name][1])
    record_figure(
        f"sampling from {VOCABULARY} tokens{' with a mask' if with_mask else ''}: top_k 0 "
        f"{times['top_k 0'][1]:.2f} ms, median option {median(long for _, long in times.values()):.2f} ms, slowest "
        f"({slowest}) {times[slowest][1]:.2f} ms; a full sort takes {sort_milliseconds:.1f} ms"
    )
    for name in ("top_k 0", "all cuts, 8,000"):
        assert times[name][1] < sort_milliseconds / 8, (name, times[name])
    assert not {name: long for name, (_, long) in times.items() if long > 0.35 * sort_milliseconds}
    # At 128,000 tokens nearly half of the vocabulary has a penalty of its own; the rest of the time does not grow.
    grown = {name: pair for name, pair in times.items() if pair[1] > 1.3 * pair[0] + 0.1 * sort_milliseconds}
    assert not grown

"""The sampling chain against recordings, and sampling from candidates against sampling from the whole row."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from fake_runner import logits_row
from shared_data import shared

from vkbackend.engine import distribution as chain
from vkbackend.engine.request import SamplingOptions, default_options
from vkbackend.engine.sampler import Sampler
from vkbackend.errors import VkbackendError

PLAIN = dict(repeat_penalty=1.0)


def number(value):
    return float(str(value).replace("Inf", "inf"))


def vectors(kind):
    cases = [case for case in json.loads(shared("vectors/sample.json").read_text()) if case["kind"] == kind]
    assert cases
    return cases


def logits_of(case):
    return np.array([number(value) for value in case["logits"]], np.float32)


def assert_tokens(case, ids, values, ordered=True):
    expected = case["output"]
    assert list(values) == pytest.approx([number(entry["value"]) for entry in expected], rel=1e-5, abs=1e-6), case[
        "name"
    ]
    by_value = {}  # the order among equal values is free
    for entry in expected:
        by_value.setdefault(entry["value"], set()).add(entry["id"])
    if len(by_value) == len(expected):
        assert list(ids) == [entry["id"] for entry in expected], case["name"]


def options(case, **more):
    return SamplingOptions(
        temperature=case["temperature"],
        top_k=case.get("top_k", 40),
        top_p=case.get("top_p", 1),
        min_p=case.get("min_p", 0),
        seed=case.get("seed", -1),
        **PLAIN,
        **more,
    )


def test_temperature_and_softmax_as_recorded():
    for case in vectors("temperature"):
        logits = logits_of(case)
        assert_tokens(case, range(len(logits)), chain.apply_temperature(logits, case["temperature"]))
    for case in vectors("softmax"):
        weights = np.exp(chain.below_largest(logits_of(case)))
        assert_tokens(case, range(len(weights)), weights / weights.sum())


def test_top_k_as_recorded():
    for case in vectors("top_k"):
        logits = logits_of(case)
        ids, values = chain.sort_descending(np.arange(len(logits)), logits)
        count = chain.count_top_k(len(values), case["k"])
        assert_tokens(case, ids[:count], values[:count])


@pytest.mark.parametrize("kind", ["top_p", "min_p"])
def test_cuts_by_probability_as_recorded(kind):
    for case in vectors(kind):
        ids = [entry["id"] for entry in case["sorted_probs"]]
        values = np.array([entry["value"] for entry in case["sorted_probs"]], np.float32)
        p = case["p"]
        kept = chain.count_min_p(values, p) if kind == "min_p" else chain.count_top_p(values, chain.limit_of(p, 1.0))
        assert_tokens(case, ids[:kept], values[:kept])


def test_chain_as_recorded():
    for case in vectors("chain"):
        logits = logits_of(case)
        ids, weights, total = chain.distribution(*chain.sort_descending(np.arange(len(logits)), logits), options(case))
        assert_tokens(case, ids, weights / total)


def test_greedy_as_recorded():
    for case in vectors("greedy"):
        if "NaN" in case["logits"]:
            continue  # ours is an error, see test_not_a_number
        sampler = Sampler(SamplingOptions(temperature=0, **PLAIN))
        assert sampler.sample(logits_row(logits_of(case))) == case["id"], case["name"]


def test_seeded_draws_as_recorded():
    for case in vectors("seeded_draws"):
        sampler = Sampler(options(case))
        row = logits_row(logits_of(case))
        assert [sampler.sample(row) for _ in case["ids"]] == case["ids"], case["name"]


def test_errors_as_recorded():
    for case in vectors("sample_error"):
        with pytest.raises(VkbackendError) as raised:
            chain.below_largest(logits_of(case))
        assert str(raised.value) == case["error"]


def test_options_out_of_range_are_clamped_as_recorded():
    """The distribution equals that of a sampler with the recorded effective values."""
    values = np.array([2.0, 1.5, 0.0, -1.0], np.float32)
    for case in vectors("new_sampler"):
        given = dict(temperature=case["temperature"], top_p=case["top_p"], min_p=case["min_p"])
        left, right = SamplingOptions(seed=1, **given, **PLAIN), SamplingOptions(seed=1, **case["effective"], **PLAIN)
        draws = [[sampler.sample(logits_row(values)) for _ in range(20)] for sampler in (Sampler(left), Sampler(right))]
        assert draws[0] == draws[1], case["name"]


def test_not_a_number_is_an_error_at_every_temperature():
    for temperature in (0.0, 0.8):
        with pytest.raises(VkbackendError, match="NaN"):
            Sampler(SamplingOptions(temperature=temperature)).sample(logits_row([1.0, math.nan]))


def test_greedy_ties_go_to_the_lowest_id():
    logits = np.zeros(500, np.float32)
    logits[[300, 40, 41]] = 2
    assert Sampler(SamplingOptions(temperature=0, **PLAIN)).sample(logits_row(logits)) == 40


def test_repeat_penalty_divides_positive_and_multiplies_negative_logits():
    greedy = SamplingOptions(temperature=0, repeat_penalty=2.0)
    assert Sampler(greedy, prompt=[0]).sample(logits_row([3.0, 2.0])) == 1  # 1.5 < 2
    assert Sampler(greedy, prompt=[0]).sample(logits_row([-1.0, -1.5])) == 1  # -2 < -1.5
    assert Sampler(greedy).sample(logits_row([3.0, 2.0])) == 0


def test_penalties_look_back_on_repeat_last_n_tokens():
    def first(last_n, prompt, num_ctx=4):
        return Sampler(
            SamplingOptions(temperature=0, repeat_penalty=2.0, repeat_last_n=last_n), prompt, num_ctx
        ).sample(logits_row([3.0, 2.0]))

    assert first(2, [0, 5, 5]) == 0  # out of sight
    assert first(3, [0, 5, 5]) == 1
    assert first(0, [0]) == 0  # off
    assert first(-1, [0, 5, 5, 5]) == 1  # the whole context of 4
    assert first(-1, [0, 5, 5, 5, 5]) == 0


def test_presence_once_and_frequency_per_occurrence():
    row = logits_row([3.0, 2.0])
    assert Sampler(SamplingOptions(temperature=0, presence_penalty=0.6, **PLAIN), [0, 0]).sample(row) == 0
    assert Sampler(SamplingOptions(temperature=0, frequency_penalty=0.6, **PLAIN), [0]).sample(row) == 0
    assert Sampler(SamplingOptions(temperature=0, frequency_penalty=0.6, **PLAIN), [0, 0]).sample(row) == 1


def test_accepted_tokens_are_penalised():
    sampler = Sampler(SamplingOptions(temperature=0, repeat_penalty=2.0))
    row = logits_row([3.0, 2.0, 1.6])
    taken = []
    for _ in range(3):
        taken.append(sampler.sample(row))
        sampler.accept(taken[-1])
    assert taken == [0, 1, 2]


def test_accepted_tokens_push_earlier_ones_out_of_sight():
    """A token that occurs twice counts until its second occurrence leaves the window."""
    sampler = Sampler(SamplingOptions(temperature=0, repeat_penalty=2.0, repeat_last_n=3), [0, 0, 5])
    row, taken = logits_row([3.0, 2.0]), []
    for token_id in (5, 5, 5):
        taken.append(sampler.sample(row))
        sampler.accept(token_id)
    assert taken + [sampler.sample(row)] == [1, 1, 0, 0]


CHAINS = {
    "default": {},
    "greedy": dict(temperature=0),
    "greedy, strong penalty": dict(temperature=0, repeat_penalty=8.0, frequency_penalty=3.0),
    "top_k within the candidates": dict(top_k=5, top_p=1.0),
    "top_k beyond": dict(top_k=300),
    "all tokens": dict(top_k=0, top_p=1.0),
    "top_p over all": dict(top_k=0, top_p=0.95, temperature=1.5),
    "min_p alone": dict(top_k=0, top_p=1.0, min_p=0.05, temperature=1.2),
    "min_p too low for the candidates": dict(top_k=0, top_p=1.0, min_p=1e-6, temperature=3.0),
    "typical": dict(typical_p=0.5),
    "presence reward": dict(presence_penalty=-4.0, repeat_penalty=1.0),
    "frequency reward": dict(frequency_penalty=-2.0, repeat_penalty=1.0),
    "rewards": dict(repeat_penalty=0.5, presence_penalty=-4.0, frequency_penalty=-1.0),
    "bias down": dict(logit_bias={3: -100.0, 7: -2.0}),
    "bias up": dict(logit_bias={600: 9.0, 601: 9.5}),
    "strong penalty": dict(repeat_penalty=5.0),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_candidates_give_what_the_whole_row_gives(name, spread):
    """The draws are the same with a few candidates and with all logits; penalties apply to the most likely tokens."""
    random = np.random.default_rng(11)
    for seed in range(12):
        logits = (random.normal(size=700) * spread).round(1).astype(np.float32)  # rounded: many ties
        likely = np.argsort(-logits, kind="stable")
        prompt = [int(token) for token in [*likely[:30], *likely[:9], *likely[20:45], 650, 651, 651, *[likely[-1]] * 5]]
        for allowed in (None, np.arange(700) % 3 == seed % 3):
            drawn = []
            for candidates in (16, 128, 700):
                sampler = Sampler(SamplingOptions(seed=seed, **CHAINS[name]), prompt)
                row = logits_row(logits, candidates)
                for _ in range(5):
                    drawn.append(sampler.sample(row, allowed))
                    sampler.accept(drawn[-1])
            assert drawn[:5] == drawn[5:10] == drawn[10:]
            assert allowed is None or allowed[drawn].all()


def test_a_penalised_token_that_lands_on_the_floor_may_lose_to_an_unseen_one():
    row = logits_row([0, 0, 0, 0, 0, 3.0, 0, 3.0, 0, 6.0], candidates=2)  # brings 9 and 5
    assert Sampler(SamplingOptions(temperature=0, repeat_penalty=2.0), [9, 5]).sample(row) == 7


def test_the_whole_row_is_read_only_where_it_must_be():
    logits = np.linspace(20, -20, 2000).astype(np.float32)

    def reads(prompt=(), **chain_options):
        row = logits_row(logits)
        Sampler(SamplingOptions(seed=1, **chain_options), prompt).sample(row)
        return row.full.call_count

    assert reads() == 0
    assert reads(prompt=range(64)) == 0  # 64 penalised, the others carry on
    assert reads(temperature=0, prompt=range(64)) == 0
    assert reads(top_k=0, top_p=1.0, min_p=0.2) == 0
    assert reads(logit_bias={0: -100.0}) == 0
    assert reads(top_k=0) == 1
    assert reads(top_k=129) == 1
    assert reads(temperature=0, prompt=range(200), repeat_last_n=200, repeat_penalty=50.0) == 1
    assert reads(repeat_penalty=0.9, prompt=[5]) == 1
    assert reads(logit_bias={1500: 1.0}) == 1


def test_no_allowed_token_is_an_error():
    for temperature in (0.0, 1.0):
        with pytest.raises(VkbackendError, match="no token is allowed"):
            Sampler(SamplingOptions(temperature=temperature)).sample(logits_row([1.0, 2.0]), np.array([False, False]))


def test_draws_follow_the_probabilities():
    sampler = Sampler(SamplingOptions(temperature=1.0, top_k=0, top_p=1.0, seed=5, **PLAIN))
    row = logits_row(np.log([0.6, 0.3, 0.1]))
    counts = Counter(sampler.sample(row) for _ in range(3000))
    assert [counts[token] / 3000 for token in range(3)] == pytest.approx([0.6, 0.3, 0.1], abs=0.04)


def test_seeds_repeat_and_no_seed_does_not():
    row = logits_row(np.zeros(100))
    wide = dict(temperature=1.0, top_k=0, top_p=1.0)

    def run(seed):
        sampler = Sampler(SamplingOptions(seed=seed, **wide))
        return [sampler.sample(row) for _ in range(20)]

    assert run(7) == run(7) != run(8)
    assert run(-1) != run(-1)


def test_default_options_depend_on_the_architecture():
    assert default_options("llama").repeat_penalty == 1.1
    assert default_options("gemma3").repeat_penalty == 1.0
    assert default_options("gemma3").top_k == 40


EXTREMES = [
    {name: value}
    for name, values in {
        "presence_penalty": (1e38, -1e38, 1e300, -1e300),
        "frequency_penalty": (1e38, -1e38, 1e308, -1e308),
        "repeat_penalty": (0.0, -1.0, 1e-300, 1e-45, 1e38, 1e300),
        "temperature": (1e-45, 1e-300, 1e38, 1e300),
        "top_p": (0.0, 1e-45, 1e300, -1e300),
        "min_p": (1e-45, 1e300, -1e300),
        "typical_p": (1e-45, 1e300),
        "logit_bias": ({1: 1e300}, {1: -1e300}, {0: 1e39, 1: -1e39}),
    }.items()
    for value in values
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 0.8, 1e-45])
def test_extreme_options_give_a_token_or_a_sentence_and_no_warning(extreme, temperature):
    logits = np.array([3.0, -2.0, 0.0, 1e30, -np.inf, 5.5], np.float32)
    for count in (2, len(logits)):
        for scale in (1.0, 1e-29):
            more = {"temperature": temperature, **extreme}
            sampler = Sampler(SamplingOptions(seed=3, **more), [0, 1, 1, 2, 5, 5], num_ctx=64)
            try:
                token = sampler.sample(logits_row(logits * np.float32(scale), count))
                assert 0 <= token < len(logits) and token != 4
                sampler.accept(token)
            except VkbackendError as error:
                assert str(error).startswith("sample: ")

"""Log-probabilities of raw logits, against recordings and against plain arithmetic."""

import json

import numpy as np
import pytest
from fake_runner import FakeTokenizer, logits_row
from shared_data import shared

from vkbackend.engine.logprobs import token_logprob, token_text


class NumberedTokens:
    def token_bytes(self, token_id):
        return b"t%d" % token_id


def number(value):
    return float(str(value).replace("Inf", "inf"))


def test_as_recorded():
    cases = [case for case in json.loads(shared("vectors/logprobs.json").read_text()) if case["logits"]]
    assert cases
    for case in cases:
        row = logits_row([number(value) for value in case["logits"]])
        result = token_logprob(row, case["selected"], case["top_k"], NumberedTokens())
        expected = case["output"]
        assert result.text == expected["token"], case["name"]
        assert result.logprob == pytest.approx(number(expected["logprob"]), rel=1e-5, abs=1e-6), case["name"]
        expected_top = expected.get("top_logprobs", [])
        assert [entry.logprob for entry in result.top] == pytest.approx(
            [number(entry["logprob"]) for entry in expected_top], rel=1e-5, abs=1e-6
        ), case["name"]
        assert {entry.text for entry in result.top} == {entry["token"] for entry in expected_top}, case["name"]


def test_token_outside_the_candidates_reads_the_whole_row():
    logits = np.linspace(5, -5, 1000)
    row = logits_row(logits, candidates=128)
    result = token_logprob(row, 900, 2, NumberedTokens())
    assert row.full.call_count == 1
    assert result.logprob == pytest.approx(logits[900] - np.log(np.exp(logits).sum()), rel=1e-5)
    assert [entry.token_id for entry in result.top] == [0, 1]


def test_probabilities_sum_to_one():
    row = logits_row(np.random.default_rng(3).normal(size=20))
    total = sum(np.exp(entry.logprob) for entry in token_logprob(row, 0, 20, NumberedTokens()).top)
    assert total == pytest.approx(1, abs=1e-5)


def test_bytes_are_the_tokens_own_when_it_is_a_part_of_a_character():
    tokenizer = FakeTokenizer([b" \xe6", b"\xf0\x9f"])
    entry = token_logprob(logits_row(np.zeros(8)), tokenizer.id(b" \xe6"), 0, tokenizer)
    assert (entry.bytes, entry.text) == (b" \xe6", " \ufffd")
    assert token_text(b"\xf0\x9f") == "\ufffd\ufffd"
    assert token_text("日本".encode()) == "日本"

"""Bytes of tokens to text: compared with recordings of the original, and cases that matter to readers of a stream."""

import base64
import json
import random
import time

import pytest
from shared_data import shared

from vkbackend.engine.request import ScoredToken
from vkbackend.engine.text_stream import TextStream, cut_at_stop, ends_in_stop_prefix, ends_inside_character, find_stop


def vectors(name, kind=None):
    return [
        vector
        for vector in json.loads(shared(f"vectors/{name}.json").read_text())
        if kind in (None, vector.get("kind"))
    ]


def logprob(data):
    return ScoredToken(0, "", data, 0.0)


def run(pieces, stops=(), num_predict=0):
    """What the engine does with a stream: (pieces that left, what ended it)."""
    stream, sent = TextStream(stops), []
    for index, data in enumerate(pieces):
        sent.append(stream.push(data, logprob(data)))
        if stream.stopped:
            return [piece for piece in sent if piece], "stop"
        if index + 1 == num_predict:
            return [piece for piece in [*sent, stream.flush()] if piece], "length"
    return [piece for piece in [*sent, stream.flush()] if piece], "eos"


def test_stop_strings_as_recorded():
    cases = vectors("runner_stop", "find_stop")
    assert cases
    for case in cases:
        data, stops = case["sequence"].encode(), [stop.encode() for stop in case["stops"]]
        found = find_stop(data, stops)
        assert (found is not None) == case["found"], case["name"]
        assert (found or b"").decode() == case["stop"], case["name"]
        assert ends_in_stop_prefix(data, stops) == case["contains_stop_suffix"], case["name"]


def test_cut_at_stop_as_recorded():
    cases = vectors("runner_stop", "truncate_stop")
    assert cases
    for case in cases:
        kept, truncated = cut_at_stop([piece.encode() for piece in case["pieces"]], case["stop"].encode())
        assert ([piece.decode() for piece in kept], truncated) == (case["result"], case["token_truncated"]), case[
            "name"
        ]


def test_incomplete_characters_as_recorded():
    cases = vectors("runner_stop", "incomplete_unicode")
    assert cases
    for case in cases:
        assert ends_inside_character(base64.b64decode(case["bytes_b64"])) == case["output"], case["name"]


def test_streams_as_recorded():
    """The original sends no pieces without text; ours may carry log-probabilities of tokens without text."""
    cases = vectors("runner_stream")
    assert cases
    for case in cases:
        sent, ended_by = run(
            [base64.b64decode(piece) for piece in case["pieces_b64"]], case["stops"], case["num_predict"]
        )
        chunks = [
            {
                "content": piece.text,
                "logprob_tokens_b64": [base64.b64encode(entry.bytes).decode() for entry in piece.logprobs],
            }
            for piece in sent
            if piece.text
        ]
        assert (chunks, ended_by) == (case["chunks"], case["ended_by"]), case["name"]


@pytest.mark.parametrize("text", ["héllo", "日本語", "a🎉b👩‍🚀", "\u0000\uffff"])
def test_bytes_one_by_one_give_whole_characters(text):
    stream = TextStream()
    pieces = [stream.push(bytes([byte])) for byte in text.encode()]
    texts = [piece.text for piece in pieces if piece]
    assert texts == list(text)
    assert stream.flush() is None


def test_every_token_has_its_logprob_even_without_text():
    tokens = [b"\xff", b"a", b"\xe4", b"\xb8"]
    sent, _ = run(tokens)
    assert [entry.bytes for piece in sent for entry in piece.logprobs] == tokens
    assert "".join(piece.text for piece in sent) == "a"


def test_logprobs_of_a_held_back_part_of_a_stop_string_come_when_it_is_released():
    sent, _ = run([b" h", b" i", b" j", b" k"], [" j q"])
    assert [piece.text for piece in sent] == [" h", " i", " j k"]
    assert [len(piece.logprobs) for piece in sent] == [1, 1, 2]


def test_num_sent_counts_tokens_that_reached_the_text():
    stream = TextStream(["END"])
    counts = []
    for data in (b"one", b" E", b"ND and"):
        stream.push(data)
        counts.append(stream.num_sent)
    assert stream.stopped and counts == [1, 1, 2]


def test_lone_surrogate_in_a_stop_string_matches_nothing():
    sent, ended_by = run([b"a?", b"\xef\xbf\xbd"], ["\ud800"])
    assert (sent[0].text + sent[1].text, ended_by) == ("a?\ufffd", "eos")


def test_the_end_of_a_text_against_all_beginnings_of_a_stop_string():
    random_bytes = random.Random(1)
    for _ in range(3000):
        data, stop = (bytes(random_bytes.choices(b"ab", k=random_bytes.randrange(7))) for _ in range(2))
        assert ends_in_stop_prefix(data, [stop]) == any(
            data.endswith(stop[:length]) for length in range(1, len(stop) + 1)
        ), (data, stop)


def test_a_stop_string_as_long_as_a_request_costs_little():
    """Slow stop strings would delay all generations: the engine's one thread searches for them at every token."""
    stream, started = TextStream(["x" * 1_000_000]), time.process_time()
    for _ in range(50):
        assert stream.push(b"token").text == "token"
    assert time.process_time() - started < 1

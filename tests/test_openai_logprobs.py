"""Log-probabilities in the shape of /v1/completions: texts, bytes, offsets, and which of the likeliest tokens are shown."""

from server.messages import Logprob, TokenLogprob
from server.openai.legacy_logprobs import LegacyWriter, shown


def logprob(text, value, *top):
    data = text if isinstance(text, bytes) else text.encode()
    return Logprob(data.decode("utf-8", "replace"), value, list(data), [TokenLogprob(other, number, list(other.encode())) for other, number in top])


def test_offsets_count_characters_over_all_pieces():
    writer = LegacyWriter(0)
    first = writer.write([logprob("wö", -1.0), logprob("€".encode()[:2], -2.0)])
    second = writer.write([logprob("€".encode()[2:], -3.0), logprob("!", -4.0)])
    assert first.text_offset + second.text_offset == [0, 2, 2, 3]
    assert first.tokens + second.tokens == ["wö", "bytes:\\xe2\\x82", "bytes:\\xac", "!"]
    assert first.top_logprobs is None and second.token_logprobs == [-3.0, -4.0]


def test_tokens_that_are_no_part_of_the_text_take_no_place_in_it():
    """A beginning-of-text token that the tokenizer added, an end token."""
    found = LegacyWriter(1).write([Logprob("<bos>", None, []), logprob("a", -1.0, ("a", -1.0)), Logprob("<eos>", -0.5, [])])
    assert (found.tokens, found.text_offset) == (["<bos>", "a", "<eos>"], [0, 0, 1])
    assert found.top_logprobs == [None, {"a": -1.0}, {"<eos>": -0.5}]


def test_the_token_itself_is_always_among_the_likeliest_with_its_own_number():
    found = LegacyWriter(2).write([logprob("c", -3.0, ("a", -1.0), ("b", -2.0)), logprob("a", -1.0, ("a", -1.0), ("b", -2.0))])
    assert found.top_logprobs == [{"a": -1.0, "b": -2.0, "c": -3.0}, {"a": -1.0, "b": -2.0}]


def test_different_parts_of_characters_never_read_alike():
    assert shown(logprob(b"\xe2", 0.0)) != shown(logprob(b"\xe3", 0.0))
    found = LegacyWriter(2).write([logprob(b"\xe2", -1.0)])
    assert list(found.top_logprobs[0]) == ["bytes:\\xe2"]

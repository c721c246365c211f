"""Log-probabilities in the shape of /v1/completions: texts, bytes, offsets, and the alternatives shown."""

import pytest
from tiny_gguf import write_tiny_gguf

from vkbackend.engine import request
from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.openai.legacy_logprobs import LegacyWriter, shown
from vkbackend.server.openai.scored import _echoed
from vkbackend.server.wire.native import Logprob, TokenLogprob
from vkbackend.tokenizer import Tokenizer


def logprob(text, value, *top):
    data = text if isinstance(text, bytes) else text.encode()
    return Logprob(
        data.decode("utf-8", "replace"),
        value,
        list(data),
        [TokenLogprob(other, number, list(other.encode())) for other, number in top],
    )


def test_offsets_count_characters_over_all_pieces():
    writer = LegacyWriter(0)
    first = writer.write([logprob("wö", -1.0), logprob("€".encode()[:2], -2.0)])
    second = writer.write([logprob("€".encode()[2:], -3.0), logprob("!", -4.0)])
    assert first.text_offset + second.text_offset == [0, 2, 2, 3]
    assert first.tokens + second.tokens == ["wö", "bytes:\\xe2\\x82", "bytes:\\xac", "!"]
    assert first.top_logprobs is None and second.token_logprobs == [-3.0, -4.0]


def test_tokens_that_are_no_part_of_the_text_take_no_place_in_it():
    """A beginning-of-text token that the tokenizer added, an end token."""
    found = LegacyWriter(1).write(
        [Logprob("<bos>", None, []), logprob("a", -1.0, ("a", -1.0)), Logprob("<eos>", -0.5, [])]
    )
    assert (found.tokens, found.text_offset) == (["<bos>", "a", "<eos>"], [0, 0, 1])
    assert found.top_logprobs == [None, {"a": -1.0}, {"<eos>": -0.5}]


def test_the_token_itself_is_always_among_the_likeliest_with_its_own_number():
    found = LegacyWriter(2).write(
        [logprob("c", -3.0, ("a", -1.0), ("b", -2.0)), logprob("a", -1.0, ("a", -1.0), ("b", -2.0))]
    )
    assert found.top_logprobs == [{"a": -1.0, "b": -2.0, "c": -3.0}, {"a": -1.0, "b": -2.0}]


def test_different_parts_of_characters_never_read_alike():
    assert shown(logprob(b"\xe2", 0.0)) != shown(logprob(b"\xe3", 0.0))
    found = LegacyWriter(2).write([logprob(b"\xe2", -1.0)])
    assert list(found.top_logprobs[0]) == ["bytes:\\xe2"]


def echoed(path, prompt):
    """Tokens and offsets of an echoed prompt, as /v1/completions shows them, without the token that begins the text."""
    tokenizer = Tokenizer.from_gguf(GGUFFile.open(path))
    tokens = tokenizer.encode(prompt)
    logprobs = [request.ScoredToken(token, "", tokenizer.token_bytes(token), -1.0) for token in tokens[1:]]
    found = LegacyWriter(0).write(_echoed(tokenizer, tokens, prompt, logprobs))
    assert found.text_offset[0] == 0
    return list(zip(found.tokens, found.text_offset))[1:]


@pytest.mark.parametrize(
    "prompt",
    [
        "hello the sand",
        " hello",
        "a  the",
        "<start_of_turn>the<end_of_turn> an é the",
        "<start_of_turn><end_of_turn>s",
        "\u00e9\u00e9",
        " ",
    ],
)
def test_offsets_of_an_echoed_prompt_count_the_prompt_alone(tmp_path, prompt):
    """A tokenizer that puts spaces before texts, as those of Llama 2 and Mistral, adds nothing to the text that is
    shown.
    """
    path = write_tiny_gguf(tmp_path / "m.gguf", tokenizer="llama", adds_spaces=True)
    found = echoed(path, prompt)
    text = prompt.encode()
    for token, offset in found:
        assert token.startswith("bytes:") or prompt[offset:].startswith(token), (token, offset)
    covered = [token for token, _ in found if not token.startswith("bytes:")]
    assert len("".join(covered).encode()) + 1 * sum(token.startswith("bytes:") for token, _ in found) == len(text)


def test_offsets_behind_an_added_space(tmp_path):
    path = write_tiny_gguf(tmp_path / "m.gguf", tokenizer="llama", adds_spaces=True)
    assert [pair for pair in echoed(path, "hello the sand") if pair[0]] == [
        ("he", 0),
        ("l", 2),
        ("l", 3),
        ("o", 4),
        (" ", 5),
        ("th", 6),
        ("e", 8),
        (" s", 9),
        ("an", 11),
        ("d", 13),
    ]

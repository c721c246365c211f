"""Unigram vocabularies and tables of replacements."""

import random

import pytest
from charsmap_table import charsmap_table
from tokenizer_keys import tokenizer_of

from vkbackend.errors import TokenizerError
from vkbackend.tokenizer.charsmap import Charsmap
from vkbackend.tokenizer.vocabulary import TokenType

SCORES = {
    "<unk>": 0,
    "</s>": 0,
    "▁": -4,
    "a": -3,
    "b": -3,
    "ab": -5,
    "▁a": -3.5,
    "▁ab": -9,
    "<x>": -90,
    "c": -1,
    "é": -2,
}
IDS = {text: token_id for token_id, text in enumerate(SCORES)}
TYPES = {**dict.fromkeys(SCORES, TokenType.NORMAL), "<unk>": TokenType.UNKNOWN, "</s>": TokenType.CONTROL}
TYPES |= {"<x>": TokenType.USER_DEFINED, "c": TokenType.UNUSED}


def unigram(tmp_path, replacements=None, **keys):
    if replacements:
        keys["precompiled_charsmap"] = charsmap_table(replacements)
    keys = {"eos_token_id": 1, "unknown_token_id": 0, **keys}
    return tokenizer_of(tmp_path, "t5", TYPES, scores=[float(score) for score in SCORES.values()], **keys)


def ids_of(*texts: str) -> list[int]:
    return [IDS[text] for text in texts]


def test_the_tokens_with_the_highest_sum_of_scores(tmp_path):
    tokenizer = unigram(tmp_path)
    assert tokenizer.encode("ab") == ids_of("ab", "</s>")
    assert tokenizer.encode(" ab", add_special=False) == ids_of("▁a", "b")  # -6.5; "▁", "ab" is -9, like "▁ab"
    assert tokenizer.encode("c<x>", add_special=False) == ids_of("c", "<x>")
    assert tokenizer.decode(ids_of("▁a", "<x>", "é")) == " a<x>é".encode()


def test_unknown_characters_in_a_row_are_one_token(tmp_path):
    tokenizer = unigram(tmp_path)
    assert tokenizer.encode("azzza", add_special=False) == ids_of("a", "<unk>", "a")
    assert tokenizer.encode("z" * 100_000, add_special=False) == ids_of("<unk>")


@pytest.mark.parametrize(
    "merges, prefix, expected",
    [
        (False, False, ("▁", "▁a", "▁", "▁", "b", "▁")),
        (False, True, ("▁", "▁", "▁a", "▁", "▁", "b", "▁")),
        (True, False, ("▁a", "▁", "b")),
        (True, True, ("▁a", "▁", "b")),
    ],
)
def test_spaces(tmp_path, merges, prefix, expected):
    tokenizer = unigram(tmp_path, remove_extra_whitespaces=merges, add_space_prefix=prefix)
    assert tokenizer.encode("  a  b ", add_special=False) == ids_of(*expected)


def test_replacements_take_the_longest_key(tmp_path):
    tokenizer = unigram(tmp_path, {"e\u0301": "é", "é": "é", "\t": " ", "\u0301": "", "Ａ": "a", "Ａ\u0301": "b"})
    assert tokenizer.encode("ae\u0301Ａ\tＡ\u0301\u0301", add_special=False) == ids_of("a", "é", "a", "▁", "b")


def test_replacements_like_the_plain_way():
    draw = random.Random(3)
    letters = "ab\u0301é語ー"
    for later_ascii in (False, True):
        for _ in range(50):
            keys = {
                draw.choice(letters) + "".join(draw.choices(letters[0 if later_ascii else 2 :], k=draw.randrange(3)))
                for _ in range(draw.randint(1, 12))
            }
            replacements = {key: "".join(draw.choices("xyz ", k=draw.randrange(3))) for key in sorted(keys)}
            text, at, expected = "".join(draw.choices(letters + " x", k=60)), 0, ""
            while at < len(text):
                key = max((key for key in keys if text.startswith(key, at)), key=len, default="")
                expected += replacements[key] if key else text[at]
                at += len(key) or 1
            assert Charsmap(charsmap_table(replacements)).apply(text) == expected, replacements


def test_a_damaged_table_is_an_error(tmp_path):
    whole = charsmap_table({"a": "b"})
    for table in (b"\0", whole[:-2], whole[:2000], b"\xff\xff\xff\xff" + whole[4:]):
        with pytest.raises(TokenizerError, match="precompiled_charsmap is damaged"):
            unigram(tmp_path, precompiled_charsmap=table)
    with pytest.raises(TokenizerError, match="no array of bytes"):
        unigram(tmp_path, precompiled_charsmap=["a", "b"])
    with pytest.raises(TokenizerError, match="no unknown token"):
        tokenizer_of(tmp_path, "t5", {"a": TokenType.NORMAL}, scores=[0.0], add_eos_token=False)


def test_long_texts_have_the_tokens_of_the_whole(tmp_path):
    tokenizer = unigram(tmp_path, {"A": "a", "\t": " "}, remove_extra_whitespaces=True)
    text = "Ab ab\tzza " * 20_000
    ids = tokenizer.encode(text)
    assert len(tokenizer._kind.PLACE_TO_CUT.findall(text)) > 10_000
    assert ids == [*tokenizer._encode_part(text, True), IDS["</s>"]]

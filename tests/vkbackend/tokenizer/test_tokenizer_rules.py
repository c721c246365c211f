"""Rules of each kind of tokenizer, on vocabularies of a few tokens."""

import logging
import random

import pytest
from starter_models import model_path
from tokenizer_keys import tokenizer_of
from varied_texts import varied_texts

from vkbackend.errors import TokenizerError
from vkbackend.gguf.reader import GGUFFile
from vkbackend.tokenizer.merging import merge_pairs
from vkbackend.tokenizer.pretokenizers import ROWS, Pretokenizer
from vkbackend.tokenizer.sentencepiece import SPACE, SentencePiece
from vkbackend.tokenizer.texts import Texts
from vkbackend.tokenizer.vocabulary import TokenType

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = (
    TokenType[name] for name in ("NORMAL", "UNKNOWN", "CONTROL", "USER_DEFINED", "BYTE")
)


BYTES = {f"<0x{byte:02X}>": BYTE for byte in range(256)}
SPM = {
    "<unk>": UNKNOWN,
    "<s>": CONTROL,
    "</s>": CONTROL,
    **BYTES,
    SPACE: NORMAL,
    "a": NORMAL,
    "b": NORMAL,
    "ab": NORMAL,
    SPACE + "a": NORMAL,
}
SPM_IDS = {text: token_id for token_id, text in enumerate(SPM)}
NO_MERGES = ["z z"]  # of no token; an empty list is not written
LETTERS = {"a": NORMAL, "b": NORMAL, "c": NORMAL, "Ġ": NORMAL}


def spm(tmp_path, scores=None, extra=(), **keys):
    tokens = {**SPM, **dict(extra)}
    values = [(scores or {}).get(text, 0.0) for text in tokens]
    return tokenizer_of(tmp_path, "llama", tokens, scores=values, **keys)


def test_sentencepiece_prefers_the_higher_score_then_the_left(tmp_path):
    ids = SPM_IDS
    assert spm(tmp_path, {"ab": 1.0}).encode("ab", add_special=False) == [ids[SPACE], ids["ab"]]
    assert spm(tmp_path, {SPACE + "a": 1.0}).encode("ab", add_special=False) == [ids[SPACE + "a"], ids["b"]]
    assert spm(tmp_path).encode("ab", add_special=False) == [ids[SPACE + "a"], ids["b"]]


def test_sentencepiece_bos_and_space_prefix(tmp_path):
    ids, tokenizer = SPM_IDS, spm(tmp_path)
    assert (tokenizer.adds_bos, tokenizer.bos_id, tokenizer.eos_ids) == (True, 1, {2})
    assert tokenizer.encode("a") == [1, ids[SPACE + "a"]]
    assert tokenizer.encode("a</s>a", add_special=False) == [
        ids[SPACE + "a"],
        2,
        ids[SPACE + "a"],
    ]  # again after a special token
    assert tokenizer.encode("") == [1] and tokenizer.encode("", add_special=False) == []
    assert spm(tmp_path, add_space_prefix=False).encode("a", add_special=False) == [ids["a"]]
    assert spm(tmp_path, add_bos_token=False, add_eos_token=True).encode("a") == [ids[SPACE + "a"], 2]


def test_byte_fallback_and_its_bytes(tmp_path):
    tokenizer = spm(tmp_path, add_space_prefix=False)
    ids = tokenizer.encode("é🦙", add_special=False)
    assert ids == [SPM_IDS[f"<0x{byte:02X}>"] for byte in "é🦙".encode()]
    assert (
        tokenizer.token_bytes(ids[0]) == b"\xc3"
        and tokenizer.decode(ids) == "é🦙".encode()
        and tokenizer.decode(ids[:3]) == b"\xc3\xa9\xf0"
    )


def test_without_byte_tokens_the_unknown_token(tmp_path):
    tokens = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL, "a": NORMAL}
    tokenizer = tokenizer_of(tmp_path, "llama", tokens, scores=[0.0] * 4, add_space_prefix=False)
    assert tokenizer.encode("aéa", add_special=False) == [3, 0, 3]


def test_token_bytes_by_type(tmp_path):
    extra = {"<|im_start|>": CONTROL, "x▁y": USER_DEFINED, "unused": TokenType.UNUSED}
    tokenizer = spm(tmp_path, extra=extra)
    ids = {**SPM_IDS, **{text: len(SPM) + index for index, text in enumerate(extra)}}
    assert tokenizer.vocab_size == len(ids)
    assert (
        tokenizer.token_bytes(ids[SPACE + "a"]) == b" a"
        and tokenizer.token_bytes(ids["<|im_start|>"]) == b"<|im_start|>"
    )
    assert tokenizer.token_bytes(ids["x▁y"]) == "x▁y".encode() and tokenizer.token_bytes(ids["unused"]) == b""
    assert [tokenizer.is_control(ids[text]) for text in ("<s>", "<|im_start|>", "a", "x▁y", "<0x00>")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    for token_id in (-1, tokenizer.vocab_size):
        with pytest.raises(TokenizerError, match=f"token {token_id} .*{tokenizer.vocab_size} tokens"):
            tokenizer.token_bytes(token_id)
        assert not tokenizer.is_control(token_id)


def test_a_space_inside_a_token_survives_the_split_into_words(tmp_path):
    tokenizer = spm(tmp_path, {"ab": 1.0, "b" + SPACE: 2.0}, extra={"b" + SPACE: NORMAL}, add_space_prefix=False)
    assert tokenizer.encode("ab a", add_special=False) == [SPM_IDS["a"], len(SPM), SPM_IDS["a"]]


def test_cutting_into_words_changes_nothing():
    model = SentencePiece(GGUFFile.open(model_path("gemma3")).metadata)
    for text in varied_texts(300, 3, ["x"]):
        text = text.replace(" ", SPACE)
        assert model.encode(text, False) == list(model._encode_word(text)), repr(text)


def test_merges_by_rank_then_from_the_left(tmp_path):
    tokens = {**LETTERS, "ab": NORMAL, "bc": NORMAL, "aa": NORMAL, "abc": NORMAL}
    tokenizer = tokenizer_of(tmp_path, "gpt2", tokens, merges=["b c", "a b", "a a", "a bc"], pre="gpt-2")
    ids = {text: token_id for token_id, text in enumerate(tokens)}
    assert tokenizer.encode("abc") == [ids["abc"]] and tokenizer.encode("ab") == [ids["ab"]]
    assert tokenizer.encode("aaa") == [ids["aa"], ids["a"]]
    assert tokenizer.encode("a abc") == [ids["a"], ids["Ġ"], ids["abc"]]
    assert tokenizer.encode("aza") == [ids["a"], ids["a"]]  # no token for z: dropped, as llama.cpp does
    assert not tokenizer.adds_bos and tokenizer.bos_id is None and tokenizer.eos_ids == set()


def test_a_whole_word_may_pass_over_the_merges(tmp_path):
    tokens = {**LETTERS, "ab": NORMAL, "<s>": CONTROL}
    for pre, expected in (("llama-bpe", [5, 4]), ("qwen2", [0, 1])):
        tokenizer = tokenizer_of(tmp_path, "gpt2", tokens, merges=["b c"], pre=pre, bos_token_id=5)
        assert tokenizer.encode("ab") == expected, pre


def test_merge_pairs_like_the_plain_way():
    def plainly(symbols, ranks):
        while True:
            found = [
                (ranks[left + "+" + right], index)
                for index, (left, right) in enumerate(zip(symbols, symbols[1:]))
                if left + "+" + right in ranks
            ]
            if not found:
                return symbols
            index = min(found)[1]
            symbols = symbols[:index] + [symbols[index] + symbols[index + 1]] + symbols[index + 2 :]

    draw = random.Random(1)
    for _ in range(300):
        pieces = ["a", "b", "c"]
        ranks = {}
        for rank in range(draw.randint(0, 12)):
            left, right = draw.choice(pieces), draw.choice(pieces)
            ranks.setdefault(f"{left}+{right}", rank // 2)  # pairs of equal rank: the left one goes first
            pieces.append(left + right)
        symbols = [draw.choice("abc") for _ in range(draw.randint(0, 40))]
        assert merge_pairs(list(symbols), ranks.get, "+") == plainly(symbols, ranks)


def test_texts_find_the_first_that_is_equal():
    draw = random.Random(2)
    pieces = ["".join(draw.choices("ab▁é👩", k=draw.randint(0, 6))).encode() for _ in range(3000)] + [
        b"\xff",
        b"\xc3",
        b"x\xe2\x96",
    ]
    texts, expected = Texts(pieces), [piece.decode("utf-8", "replace") for piece in pieces]
    numbers = dict(zip(reversed(expected), range(len(expected) - 1, -1, -1)))
    assert len(texts) == len(expected) and list(texts) == expected == [texts[number] for number in range(len(texts))]
    assert len(numbers) < len(expected)  # some occur twice
    for text in [*numbers, "ab" * 9, "c", "\ud800", "e\u0301"]:
        assert texts.find(text) == texts._find(text) == numbers.get(text) and (text in texts) == (text in numbers), (
            repr(text)
        )
    assert Texts([]).find("a") is None and len(Texts([])) == 0


def test_special_tokens_in_a_text(tmp_path):
    tokens = {**LETTERS, "<x>": CONTROL, "<x>a": CONTROL, "bb": USER_DEFINED, "<": NORMAL, "x": NORMAL, ">": NORMAL}
    tokenizer = tokenizer_of(tmp_path, "gpt2", tokens, merges=NO_MERGES, pre="gpt-2")
    assert tokenizer.encode("<x>b<x>ac") == [4, 1, 5, 2]  # the longer one wins
    assert tokenizer.encode("<x>bb", parse_special=False) == [7, 8, 9, 6]  # user-defined ones are always found
    assert tokenizer.encode("bbb<x><x><x>") == [6, 1, 4, 4, 4]
    assert tokenizer.encode("<x") == [7, 8]


def test_phi3_marks_strip_white_space_after_them(tmp_path):
    extra = {"<|user|>": CONTROL, "<|endoftext|>": CONTROL}
    phi, other = (spm(tmp_path, extra=extra, name=name, add_space_prefix=False) for name in ("Phi-3 mini", "Mistral"))
    user, space = len(SPM), SPM_IDS[SPACE]
    assert phi.encode("<|user|> \n b", add_special=False) == [user, SPM_IDS["b"]]
    assert other.encode("<|user|> b", add_special=False) == [user, space, SPM_IDS["b"]]
    assert phi.encode("<|endoftext|> b", add_special=False) == [user + 1, space, SPM_IDS["b"]]


def test_lone_surrogates_are_replaced(tmp_path):
    tokenizer = spm(tmp_path)
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")


@pytest.mark.parametrize(
    "extra, keys, expected",
    [
        ({}, {"eos_token_id": 3}, {3}),
        ({}, {"eos_token_id": 3, "eot_token_id": 1, "eom_token_id": 2}, {1, 2, 3}),
        ({}, {"eos_token_ids": [1, 2]}, {1, 2}),
        ({}, {"eos_token_id": 99}, set()),
        ({"<|im_end|>": CONTROL, "<|endoftext|>": CONTROL, "<|eom_id|>": NORMAL}, {}, {4, 5, 6}),
        ({"<reponame>": CONTROL, "<|fim_prefix|>": CONTROL, "<|file_sep|>": CONTROL}, {}, {4, 6}),
        ({"<|end|>": CONTROL, "<|return|>": CONTROL, "<|call|>": CONTROL}, {}, {5, 6}),
        ({"<|end|>": CONTROL, "<|return|>": CONTROL}, {}, {4, 5}),
        ({"<|end|>": CONTROL, "<|flush|>": CONTROL, "<|calls|>": CONTROL}, {}, {5, 6}),
    ],
)
def test_tokens_that_end_a_generation(tmp_path, extra, keys, expected):
    tokenizer = tokenizer_of(tmp_path, "gpt2", {**LETTERS, **extra}, merges=NO_MERGES, pre="gpt-2", **keys)
    assert tokenizer.eos_ids == expected


def test_end_marks_of_a_wrong_type_become_control_tokens(tmp_path):
    tokenizer = tokenizer_of(
        tmp_path, "gpt2", {**LETTERS, "<|im_end|>": NORMAL, "<|channel|>": CONTROL}, merges=NO_MERGES, pre="gpt-2"
    )
    assert tokenizer.is_control(4) and not tokenizer.is_control(5)
    assert tokenizer.encode("a<|im_end|>") == [0, 4] and tokenizer.encode("a<|channel|>", parse_special=False) == [0, 5]


def test_unknown_pretokenizer_is_default_with_a_warning(tmp_path, caplog):
    text = "It's 12345 o'clock!!\n\n  ok"
    for keys, words in (({"pre": "from-tomorrow"}, "'from-tomorrow'"), ({}, "names no")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            tokenizer = tokenizer_of(tmp_path, "gpt2", LETTERS, merges=NO_MERGES, **keys)
        assert words in caplog.text and "llama-bpe" in caplog.text
        assert tokenizer._kind._pretokenizer.split(text) == Pretokenizer.named("default").split(text)


def test_pretokenizers_lose_nothing():
    for row in ROWS:
        pretokenizer = Pretokenizer.named(row.names.split()[0])
        for text in varied_texts(60, 11, ["x"]):
            assert "".join(pretokenizer.split(text)) == text


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(TokenizerError, match="'plamo2'.*gpt2, gemma4, llama, bert, t5"):
        tokenizer_of(tmp_path, "plamo2", LETTERS)
    with pytest.raises(TokenizerError, match="add_bos_token is true, but tokenizer.ggml.bos_token_id"):
        tokenizer_of(tmp_path, "gpt2", LETTERS, merges=NO_MERGES, pre="gpt-2", add_bos_token=True)
    with pytest.raises(TokenizerError, match="scores has 2 entries for 4 tokens"):
        tokenizer_of(tmp_path, "llama", LETTERS, scores=[0.0, 1.0])
    with pytest.raises(TokenizerError, match="scores has no numbers"):
        tokenizer_of(tmp_path, "llama", LETTERS, scores=["0", "1", "2", "3"])


def test_wordpiece(tmp_path):
    tokens = {
        "[PAD]": CONTROL,
        "[UNK]": CONTROL,
        "[CLS]": CONTROL,
        "[SEP]": CONTROL,
        "▁un": NORMAL,
        "able": NORMAL,
        "▁,": NORMAL,
        "▁語": NORMAL,
        "▁a": NORMAL,
    }
    tokenizer = tokenizer_of(tmp_path, "bert", tokens, cls_token_id=2, seperator_token_id=3, unknown_token_id=1)
    assert tokenizer.encode("Únable, 語a\tzzz") == [2, 4, 5, 6, 7, 8, 1, 3]
    assert tokenizer.decode([4, 5, 6]) == b" unable ,"


def test_separator_in_both_spellings(tmp_path):
    for key in ("seperator_token_id", "separator_token_id"):
        tokens = {"[UNK]": CONTROL, "[CLS]": CONTROL, "[SEP]": CONTROL, "▁a": NORMAL}
        tokenizer = tokenizer_of(tmp_path, "bert", tokens, cls_token_id=1, unknown_token_id=0, **{key: 2})
        assert tokenizer.encode("a") == [1, 3, 2], key


def test_pairs_of_texts(tmp_path):
    tokens = {"[UNK]": CONTROL, "[CLS]": CONTROL, "[SEP]": CONTROL, "▁a": NORMAL, "▁b": NORMAL}
    bert = tokenizer_of(tmp_path, "bert", tokens, cls_token_id=1, unknown_token_id=0, seperator_token_id=2)
    assert bert.encode_pair("a", "b") == [1, 3, 2, 4, 2]
    ends = {"bos_token_id": 0, "eos_token_id": 1, "seperator_token_id": 1, "add_bos_token": True, "add_eos_token": True}
    tokens = {"<s>": CONTROL, "</s>": CONTROL, **LETTERS}
    for keys, separator in (({"pre": "roberta-bpe"}, [1]), ({"pre": "roberta-bpe", "add_sep_token": False}, [])):
        roberta = tokenizer_of(tmp_path, "gpt2", tokens, merges=NO_MERGES, **ends, **keys)
        assert roberta.encode_pair("a", "b") == [0, 2, 1, *separator, 3, 1]


def test_mask_strips_white_space_before_it(tmp_path):
    tokens = {"<mask>": CONTROL, **LETTERS}
    for pre, expected in (("jina-v2-code", [1, 0, 4, 1]), ("gpt-2", [1, 4, 0, 4, 1])):
        tokenizer = tokenizer_of(tmp_path, "gpt2", tokens, merges=NO_MERGES, pre=pre)
        assert tokenizer.encode("a <mask> a") == expected


def test_plain_text_with_merges(tmp_path):
    tokens = {"<bos>": CONTROL, **BYTES, SPACE: NORMAL, "a": NORMAL, "b": NORMAL, "\n": NORMAL, "\n\n": NORMAL}
    tokens |= {"b" + SPACE: NORMAL, SPACE + "a": NORMAL}
    tokenizer = tokenizer_of(tmp_path, "gemma4", tokens, merges=["b ▁", "▁ a"], bos_token_id=0, add_bos_token=False)
    ids = {text: token_id for token_id, text in enumerate(tokens)}
    assert tokenizer.encode("a a") == [0, ids["a"], ids["▁a"]]  # bos against the file's key, which is wrong
    assert tokenizer.encode("b a\n\né", add_special=False) == [
        ids["b▁"],
        ids["a"],
        ids["\n\n"],
        ids["<0xC3>"],
        ids["<0xA9>"],
    ]
    assert tokenizer.decode(tokenizer.encode("b a\n\né", add_special=False)) == "b a\n\né".encode()


def test_afmoe_separates_asian_scripts():
    assert Pretokenizer.named("afmoe").split("a \ua24f\u8a9e\uac00 b") == ["a", " ", "\ua24f\u8a9e\uac00", " b"]


def test_numbers_are_grouped_from_their_end():
    assert Pretokenizer.named("superbpe").split("a 1234567 b") == ["a ", "1", "234", "567", " b"]
    assert Pretokenizer.named("tiny_aya").split("a1234567") == ["a", "1", "234", "567"]


def test_rwkv_takes_the_longest_token(tmp_path):
    tokens = dict.fromkeys(("<s>", "a", "ab", "abc", r"\n", r"\xe8\xaa", r"\x9e", r"\\", r"b\t"), NORMAL)
    tokenizer = tokenizer_of(tmp_path, "rwkv", tokens, bos_token_id=0, add_bos_token=True)
    ids = [2, 3, 1, 4, 5, 6, 7, 8]
    assert tokenizer.encode("ababca\n語\\b\t") == ids  # no bos, whatever the file says
    assert tokenizer.decode(ids) == "ababca\n語\\b\t".encode()
    assert tokenizer.encode("a?a") == [1, 1]

"""Tokenizers of whole vocabularies: recorded ids, llama.cpp's tokens, memory and speed."""

import random
import time
import tracemalloc

import pytest
from llama_cpp_tokens import compare_with_llama_cpp
from llama_vocabularies import write_model
from shared_data import shared
from starter_models import model_path

from vkbackend.gguf.reader import GGUFFile
from vkbackend.tokenizer import Tokenizer
from vkbackend.tokenizer.bpe import CHARACTER_OF_BYTE
from vkbackend.tokenizer.pretokenizers import ROWS
from vkbackend.tokenizer.sentencepiece import SPACE
from vkbackend.tokenizer.vocabulary import TokenType

SMOLLM2, GEMMA3 = "smollm2", "gemma3"


# Recorded ids.


@pytest.mark.parametrize(
    "name", ["llama-bpe", "gpt-2", "llama-spm", "phi-3", "qwen2", "falcon", "starcoder", "deepseek-coder", "bert-bge"]
)
def test_recorded_ids(name):
    path = shared("data/vocab") / f"ggml-vocab-{name}.gguf"
    tokenizer = Tokenizer.from_gguf(GGUFFile.open(path))
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = [list(map(int, line.split())) for line in path.with_name(path.name + ".out").read_text().split("\n")]
    assert len(texts) == len(expected) > 40
    for text, ids in zip(texts, expected):
        assert tokenizer.encode(text, add_special=False, parse_special=False) == ids, repr(text)


# llama.cpp at work.


@pytest.mark.parametrize("name", [SMOLLM2, GEMMA3])
def test_like_llama_cpp(name):
    compare_with_llama_cpp([model_path(name)], count=1000, seed=20251113)


@pytest.fixture(scope="module")
def smollm2_merges() -> list[str]:
    return GGUFFile.open(model_path(SMOLLM2)).metadata["tokenizer.ggml.merges"][:3000]


def byte_level(merges: list[str]) -> dict[str, TokenType]:
    texts = [*CHARACTER_OF_BYTE.values(), *(merge.replace(" ", "", 1) for merge in merges)]
    return {"<|mark|>": TokenType.CONTROL, **dict.fromkeys(texts, TokenType.NORMAL)}


def plain_text(merges: list[str]) -> tuple[dict[str, TokenType], list[str]]:
    """The tokens and merges of a byte-level vocabulary that are whole characters, as Gemma 4 writes them."""
    bytes_of = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}
    decoded = []
    for merge in merges:
        try:
            halves = [bytes(map(bytes_of.__getitem__, half)).decode() for half in merge.split(" ")]
        except UnicodeDecodeError:
            continue
        decoded.append(" ".join(half.replace(" ", SPACE) for half in halves))
    bytes_ = {f"<0x{byte:02X}>": TokenType.BYTE for byte in range(256)}
    letters = [chr(code) for code in range(ord("!"), ord("~")) if chr(code) != "Q"]  # Q becomes a byte token
    texts = [SPACE, "\n", *letters, "é", "▁▁", "\n\n", *(merge.replace(" ", "", 1) for merge in decoded)]
    tokens = {"<|mark|>": TokenType.CONTROL, **bytes_, **dict.fromkeys(texts, TokenType.NORMAL)}
    return tokens, [f"{SPACE} {SPACE}", *decoded]


def test_every_pretokenizer_like_llama_cpp(tmp_path, smollm2_merges):
    tokens = byte_level(smollm2_merges)
    plain_tokens, plain_merges = plain_text(smollm2_merges)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    paths = []
    for row in ROWS:
        name = row.names.split()[0]
        if name == "hunyuan-dense":  # as in Ollama 0.12.11, and recorded
            continue
        vocabulary, merges = (plain_tokens, plain_merges) if row.plain else (tokens, smollm2_merges)
        model = "whitespace" if name == "whitespace" else "gpt2"
        if name == "whitespace":  # llama.cpp shows its other tokens as if they were byte-level ones
            vocabulary = {text: kind for text, kind in vocabulary.items() if text.isascii()}
        paths.append(write_model(tmp_path / f"{name}.gguf", vocabulary, model, name, merges=merges, **ends))
    assert len(paths) >= 35
    compare_with_llama_cpp(paths, count=130, seed=7)


def test_rwkv_like_llama_cpp(tmp_path, smollm2_merges):
    bytes_of = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}
    texts = ["".join(escaped(bytes_of[character]) for character in token) for token in byte_level(smollm2_merges)]
    tokens = {"<|mark|>": TokenType.CONTROL, **dict.fromkeys(texts[1:], TokenType.NORMAL)}
    compare_with_llama_cpp([write_model(tmp_path / "rwkv.gguf", tokens, "rwkv")], count=250, seed=7)


def escaped(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 and byte != ord("\\") else f"\\x{byte:02x}"


# Memory and speed.


@pytest.mark.parametrize("name, limit", [(SMOLLM2, 6), (GEMMA3, 16)])
def test_takes_little_memory(name, limit, record_figure):
    """limit: MiB."""
    path = model_path(name)
    tracemalloc.start()
    try:
        tokenizer = Tokenizer.from_gguf(GGUFFile.open(path))
        held = tracemalloc.get_traced_memory()[0] / (1 << 20)
    finally:
        tracemalloc.stop()
    record_figure(f"memory of a tokenizer, {name}: {held:.1f} MiB")
    assert tokenizer.vocab_size > 40_000 and held < limit


def fastest(function) -> float:
    """Seconds of the best of three runs, as the machine can be busy."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@pytest.mark.parametrize("name, limit", [(SMOLLM2, 0.3), (GEMMA3, 0.6)])
def test_loads_fast(name, limit):
    path = model_path(name)
    assert fastest(lambda: Tokenizer.from_gguf(GGUFFile.open(path))) < limit


@pytest.mark.parametrize("name", [SMOLLM2, GEMMA3])
@pytest.mark.parametrize("kind", ["letters", "one letter", "ideographs", "spaces", "emoji"])
def test_100_000_characters_without_a_word_boundary(name, kind):
    tokenizer, draw = Tokenizer.from_gguf(GGUFFile.open(model_path(name))), random.Random(5)
    text = {
        "letters": "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=100_000)),
        "one letter": "a" * 100_000,
        "ideographs": "".join(chr(draw.randint(0x4E00, 0x9FA5)) for _ in range(100_000)),
        "spaces": " " * 100_000,
        "emoji": "👩‍👩‍👧‍👦" * 14_286,
    }[kind]
    assert fastest(lambda: tokenizer.encode(text)) < 2

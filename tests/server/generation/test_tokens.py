"""A prompt is tokenized once: the check whether it fits, the run and the answer's `context` share its tokens."""

import pytest
from generate_world import run, serving
from tiny_gguf import write_tiny_gguf

from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.generation.tokens import PromptTokens
from vkbackend.tokenizer import Tokenizer
from vkbackend.tokenizer.long_texts import LONG, encode_at_most


class Counting:
    """A tokenizer that notes the texts that it encodes."""

    def __init__(self, tokenizer):
        self._tokenizer, self.texts = tokenizer, []

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def encode(self, text, **options):
        self.texts.append(text)
        return self._tokenizer.encode(text, **options)

    def encode_ends(self, text, *options):
        self.texts.append(text)
        return self._tokenizer.encode_ends(text, *options)


def count_encoded(monkeypatch, client):
    tokenizer = client.runner.tokenizer
    encode, texts = tokenizer.encode, []

    def counting(text, **options):
        texts.append(text)
        return encode(text, **options)

    monkeypatch.setattr(tokenizer, "encode", counting)
    return texts


@pytest.mark.parametrize(
    "path, fields",
    [
        ("/api/chat", {"messages": [{"role": "user", "content": "one two three"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "one two three"}]}),
        ("/api/generate", {"prompt": "one two three"}),
        ("/v1/completions", {"prompt": "one two three"}),
    ],
)
def test_a_prompt_is_tokenized_once(tmp_path, monkeypatch, path, fields):
    async def scenario():
        async with serving(tmp_path) as client:
            texts = count_encoded(monkeypatch, client)
            answer = await client.post(path, json={"model": "m", "stream": False, **fields})
            assert answer.status == 200, await answer.text()
            prompts = [text for text in texts if "three" in text and "Hello!" not in text]
            assert len(prompts) == 1
            # /api/generate and, over it, /v1/completions show the tokens of prompt and answer, which are another text.
            assert len(texts) == 1 + (path in ("/api/generate", "/v1/completions"))

    run(scenario)


def test_the_context_is_that_of_prompt_and_answer(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["Hel", "lo", "!"], []]) as client:
            for answer_text in ("Hello!", ""):
                answer = await client.post("/api/generate", json={"model": "m", "stream": False, "prompt": "one two"})
                body = await answer.json()
                text = "one two" + answer_text
                assert body["response"] == answer_text
                assert body["context"] == client.runner.tokenizer.encode(text, add_special=False)

    run(scenario)


def test_an_embedded_text_is_tokenized_once(tmp_path):
    from vkbackend.server.generation.embedding import _prompt

    file = GGUFFile.open(write_tiny_gguf(tmp_path / "m.gguf"))
    tokenizer = Counting(Tokenizer.from_gguf(file))
    assert _prompt(file.metadata, tokenizer, "a text", 512, True)[0] == tokenizer.encode("a text")
    assert len(tokenizer.texts) == 2


@pytest.fixture(params=["gpt2", "llama"])
def tokenizer(request, tmp_path):
    path = write_tiny_gguf(
        tmp_path / "m.gguf",
        tokenizer=request.param,
        adds_spaces=request.param == "llama",
        fields={"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True},
    )
    return Counting(Tokenizer.from_gguf(GGUFFile.open(path)))


@pytest.mark.parametrize(
    "text", ["", "a", "hello there", "é\n" * 30, "ab " * LONG], ids=["empty", "letter", "words", "lines", "long"]
)
@pytest.mark.parametrize("most", [4, 40, 1 << 20])
def test_shared_tokens_are_those_of_the_text(tokenizer, text, most):
    """Whatever was counted before, for texts that fit and texts that are cut."""
    wanted = encode_at_most(tokenizer, text, most, 3)
    plain = encode_at_most(tokenizer, text, most, add_special=False)
    counted = len(encode_at_most(tokenizer, text, most + 1, most + 1, add_special=False))
    tokens = PromptTokens(tokenizer)
    assert tokens.count(text, most) == counted
    assert tokens.prompt(text, most, 3) == wanted and tokens.plain(text, most) == plain
    assert tokens.count("other", 1 << 20) and tokens.prompt(text, most, 3) == wanted


def test_the_last_text_that_fit_is_remembered_with_the_last_one(tokenizer):
    """The search for the messages that fit ends with either."""
    tokens = PromptTokens(tokenizer)
    tokens.count("fits", 100)
    tokens.count("too long for it", 2)
    tokenizer.texts.clear()
    tokens.prompt("fits", 100, 0), tokens.prompt("too long for it", 2, 0)
    assert tokenizer.texts == []

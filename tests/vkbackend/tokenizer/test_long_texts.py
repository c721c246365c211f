"""Long texts: the tokens of their parts are those of the whole, and text that cannot fit is not tokenized."""

import random
import time
import tracemalloc

import pytest
import regex
from tiny_gguf import write_tiny_gguf

from vkbackend import cancellation
from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.prompts import prompt_text
from vkbackend.server.wire.native import Message
from vkbackend.tokenizer import Tokenizer, long_texts
from vkbackend.tokenizer.pretokenizers import ROWS, Pretokenizer

WORDS = [
    "the",
    "fox",
    "ran",
    "狐狸",
    "123",
    "it's",
    "\n\n",
    "\t",
    "",
    "",
    "...",
    "<end_of_turn>",
    "a)",
    "Ünïcode",
    "x\u3000y",
    "\n  \n",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.from_gguf(GGUFFile.open(write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")))


def text_of(rng, count):
    return " ".join(rng.choice(WORDS) for _ in range(count))


@pytest.fixture()
def short_parts(monkeypatch):
    monkeypatch.setattr(long_texts, "LONG", 60)
    monkeypatch.setattr(long_texts, "PART", 30)


def test_parts_have_the_tokens_of_the_whole(tokenizer, short_parts):
    for seed in range(100):
        text = text_of(random.Random(seed), 60)
        whole = tokenizer._around(True)[0] + tokenizer._encode_part(text, True) + tokenizer._around(True)[1]
        assert len(long_texts.parts(text, tokenizer._kind.PLACE_TO_CUT, [])) > 3
        assert tokenizer.encode(text) == whole
        for most, keep in ((20, 0), (20, 5), (20, 19), (50, 7)):
            assert tokenizer.encode_ends(text, most, keep) == whole[:keep] + whole[len(whole) - (most - keep) :]
        assert tokenizer.encode_ends(text, len(whole), 3) == whole


@pytest.mark.parametrize("row", ROWS, ids=[row.names.split()[0] for row in ROWS])
def test_no_word_reaches_across_a_place_to_cut(row):
    pretokenizer = Pretokenizer(row)
    for seed in range(30):
        text = text_of(random.Random(seed), 40)
        whole = pretokenizer.split(text)
        for place in regex.finditer(row.place_to_cut, text):
            assert pretokenizer.split(text[: place.start()]) + pretokenizer.split(text[place.start() :]) == whole


@pytest.mark.parametrize(
    "text",
    ["a" * 10**7, " " * 10**7, "ab " * 3 * 10**6, "<end_of_turn>" * 10**6],
    ids=["word", "blanks", "words", "special"],
)
def test_a_text_that_cannot_fit_takes_little_time_and_memory(tokenizer, text):
    tracemalloc.start()
    started = time.process_time()
    assert len(long_texts.encode_at_most(tokenizer, text, 64, 5)) == 64
    assert time.process_time() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 10 * len(text)
    tracemalloc.stop()


def test_tokenizing_a_long_text_can_be_cancelled(tokenizer):
    work = cancellation.Work()
    work.give_up()
    with work.current(), pytest.raises(cancellation.GivenUp):
        tokenizer.encode("ab " * 10**5)


class Lines:
    """A template that writes a line for each message."""

    def execute(self, values):
        self.runs = getattr(self, "runs", 0) + 1
        return "\n".join(f"{message['role']}: {message['content']}" for message in values.messages)


def test_a_long_conversation_is_cut_where_it_was_in_few_runs():
    rng = random.Random(1)
    for _ in range(50):
        messages = [
            Message(role=rng.choice(["system", "user", "assistant"]), content="w " * rng.randrange(9))
            for _ in range(rng.randrange(1, 40))
        ]
        limit = prompt_text.ContextLimit(rng.randrange(2, 120), lambda text: len(text.split()))
        template = Lines()
        found = prompt_text.chat_prompt(template, messages, limit).text
        checks = 5  # of the last 2, 4, 8, 16 and 32 messages, which together are as long as one more prompt
        assert found == one_by_one(messages, limit) and template.runs < 16 + checks


def one_by_one(messages, limit):
    """As Ollama does it: dropping one message after the other."""

    def render(kept):
        return "\n".join(f"{message.role}: {message.content}" for message in kept)

    if limit.count_tokens(render(messages)) <= limit.num_ctx:
        return render(messages)
    first, system = len(messages) - 1, []
    for candidate in range(len(messages) - 1, -1, -1):
        system = [message for message in messages[:candidate] if message.role == "system"]
        if limit.count_tokens(render(system + messages[candidate:])) > limit.num_ctx:
            break
        first = candidate
    return render(system + messages[first:])

"""What the server does for a token of a chat, from messages to the ids that run, does not grow with the chat."""

import random
import time
from pathlib import Path

import pytest

from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.generation.tokens import PromptTokens
from vkbackend.server.prompts.gotemplate import Template
from vkbackend.server.prompts.prompt_text import ContextLimit, chat_prompt
from vkbackend.server.wire.native import Message
from vkbackend.tokenizer import Tokenizer

SHORT, LONG = 1_000, 131_072  # tokens


def conversation(words: list[str], num_words: int) -> list[Message]:
    rng = random.Random(8)
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(max(num_words // 60, 1))]
    return [Message(role=("user", "assistant")[number % 2], content=text) for number, text in enumerate(texts)]


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_a_token_of_a_long_chat_costs_as_little_as_one_of_a_short_chat(large_vocabularies, record_figure, name):
    tokenizer = Tokenizer.from_gguf(GGUFFile.open(large_vocabularies[name]))
    template = Template.parse("{{ range .Messages }}<{{ .Role }}>\n{{ .Content }}\n{{ end }}")
    words = sorted(set((Path(__file__).parents[2] / "data" / "alice.txt").read_text().split()))
    each = {}
    for most in (SHORT, LONG):
        messages = conversation(words, most // 3)
        times = []
        for _ in range(4):  # words are remembered from the first on
            start = time.process_time()
            tokens = PromptTokens(tokenizer)
            limit = ContextLimit(most, lambda text, tokens=tokens, most=most: tokens.count(text, most))
            ids = tokens.prompt(chat_prompt(template, messages, limit).text, most, 4)
            times.append(time.process_time() - start)
        assert most / 3 < len(ids) <= most
        each[most] = 1e6 * min(times) / len(ids)
    record_figure(
        f"host time of a chat's token, {name}: {each[SHORT]:.2f} us of {SHORT}, {each[LONG]:.2f} us of {LONG}"
    )
    assert each[LONG] <= 1.3 * each[SHORT] + 0.2


def test_a_chat_that_outgrew_its_context_is_fitted_in_a_fraction_of_a_second(large_vocabularies, record_figure):
    """525 messages of 60 words in a context of 32,768."""
    tokenizer = Tokenizer.from_gguf(GGUFFile.open(large_vocabularies["llama"]))
    template = Template.parse("{{ range .Messages }}<{{ .Role }}>\n{{ .Content }}\n{{ end }}")
    words = sorted(set((Path(__file__).parents[2] / "data" / "alice.txt").read_text().split()))
    messages = conversation(words, 525 * 60)
    times, whole = [], []
    for _ in range(3):
        tokens = PromptTokens(tokenizer)
        start = time.process_time()
        text = chat_prompt(template, messages, ContextLimit(32_768, lambda text, t=tokens: t.count(text, 32_768))).text
        times.append(time.process_time() - start)
        start = time.process_time()
        size = len(tokenizer.encode(text, add_special=False))
        whole.append(time.process_time() - start)
    assert 32_768 - 400 < size <= 32_768 and len(messages) == 525
    record_figure(f"525 messages fitted into 32,768 tokens: {min(times):.2f} s, counting them once {min(whole):.3f} s")
    assert min(times) <= 0.3

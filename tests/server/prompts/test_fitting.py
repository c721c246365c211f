"""A conversation that has outgrown its context keeps the same messages as when they are counted one by one."""

import random
from pathlib import Path

import pytest

from vkbackend.server.prompts import gotemplate, renderers
from vkbackend.server.prompts.fitting import first_fitting
from vkbackend.server.prompts.gotemplate import Template, Values
from vkbackend.server.prompts.prompt_text import ContextLimit, _template_message, chat_prompt
from vkbackend.server.wire.native import Message

BUILT_IN = sorted((Path(gotemplate.__file__).parent / "templates").glob("*.gotmpl"))
TEMPLATES = {path.stem: Template.parse(path.read_text()) for path in BUILT_IN}
TEMPLATES |= {name: renderers.named(name) for name in ("qwen3-coder", "qwen3-vl-instruct", "qwen3-vl-thinking")}
# Its prompts shrink and grow with messages.
TEMPLATES["not monotonic"] = Template.parse(
    "{{ range .Messages }}{{ if eq .Role `system` }}{{ .Content }}{{ else if gt (len $.Messages) 9 }}{{ .Role }}"
    "{{ else }}{{ .Role }} {{ .Role }} {{ .Role }}{{ .Content }}{{ end }}{{ end }}"
)


def test_a_conversation_that_does_not_fit_takes_as_long_as_a_few_countings_of_it():
    """525 messages of 60 words, of which 32,768 tokens are kept."""
    words = [f"{letter}{number}" for letter in "abcdefgh" for number in range(300)]
    rng = random.Random(1)
    messages = [
        Message(role="user" if number % 2 == 0 else "assistant", content=" ".join(rng.choices(words, k=60)))
        for number in range(525)
    ]
    counted = []

    def count(text: str) -> int:
        counted.append(len(text))
        return len(text.split())

    text = chat_prompt(TEMPLATES["llama3-instruct"], messages, ContextLimit(16_384, count)).text
    assert sum(counted) < 10 * len(text), "as many characters as ten prompts have"
    assert len(text.split()) > 16_384 - 200


def conversation(seed: int) -> list[Message]:
    rng = random.Random(seed)
    longest = rng.choice([0, 1, 3, 30, 300])
    messages = []
    for number in range(rng.randint(2, 40)):
        usual = "user" if number % 2 == 0 else "assistant"
        role = rng.choices([usual, "system", "user", "assistant", "tool"], [20, 1, 2, 2, 1])[0]
        content = "".join(rng.choices("ab  \n", k=rng.randint(0, longest)))
        thinking = "hm " * rng.randint(0, 20) if role == "assistant" and rng.random() < 0.3 else ""
        messages.append(Message(role=role, content=content, thinking=thinking))
    return messages


def tokens(text: str) -> int:
    """Like a tokenizer's: some neighbors are one token."""
    return len(text.replace("ab", "c").replace("\n\n", "n").replace(" a", "d"))


def one_by_one(template, messages: list[Message], num_ctx: int) -> str:
    """The prompt after Ollama's rule."""

    def prompt(system: list[Message], first: int) -> str:
        return template.execute(Values(messages=[_template_message(m) for m in system + messages[first:]]))

    if tokens(prompt([], 0)) <= num_ctx:
        return prompt([], 0)
    first = len(messages) - 1
    while True:
        system = [message for message in messages[: max(first - 1, 0)] if message.role == "system"]
        before = [message for message in messages[:first] if message.role == "system"]
        if tokens(prompt(before, first)) > num_ctx and first == len(messages) - 1:
            return prompt(before, first)
        if first == 0 or tokens(prompt(system, first - 1)) > num_ctx:
            return prompt(system, first)
        first -= 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_same_messages_are_kept_as_one_by_one(name):
    template = TEMPLATES[name]
    rng = random.Random(name)
    num_cut = 0
    for seed in range(12):
        messages = conversation(seed)
        whole = tokens(template.execute(Values(messages=[_template_message(m) for m in messages])))
        for num_ctx in rng.sample(range(whole + 2), min(8, whole + 2)):
            expected = one_by_one(template, messages, num_ctx)
            assert chat_prompt(template, messages, ContextLimit(num_ctx, tokens)).text == expected, (seed, num_ctx)
            num_cut += num_ctx < whole
    assert num_cut > 40


def test_few_prompts_are_counted():
    rng = random.Random(5)
    for seed in range(200):
        num_messages = rng.randint(10, 2000)
        spread = rng.choice([1, 50, 1000])
        sizes = [rng.randint(1, spread) * rng.choice([1, 1, 1, 20]) for _ in range(num_messages)]
        most, overhead = rng.randint(max(sizes) + 20, sum(sizes) + 19), rng.randint(0, 20)
        counted = []

        def size(first, sizes=sizes, overhead=overhead, counted=counted, most=most):
            counted.append(first)
            return min(sum(sizes[first:]) + overhead, most + 1)

        if size(0) <= most:
            continue
        lengths = [int(number * rng.uniform(2, 6)) for number in sizes]
        first = first_fitting(lengths, most, size)
        assert len(counted) == len(set(counted)) <= 30, seed
        assert size(first) <= most < size(first - 1), seed

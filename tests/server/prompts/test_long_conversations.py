"""Prompts of conversations with tens of thousands of messages: the time grows in proportion to their number."""

import gc
import time

import pytest

from vkbackend.server.prompts.gotemplate import Template, Values
from vkbackend.server.prompts.jinja import JinjaTemplate
from vkbackend.server.prompts.jinja.template import _with_ids
from vkbackend.server.prompts.prompt_text import ContextLimit, chat_prompt
from vkbackend.server.wire.native import Message

LOOP = "{{ range .Messages }}<{{ .Role }}> {{ .Content }}{{ end }}"
REFUSES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for message in messages %}<{{ message.role }}> {{ message.content }}{% endfor %}"
)
FEW, MANY = 5_000, 20_000


def seconds(write, num_messages: int) -> float:
    """Processor time of this process without garbage collection, the best of three runs."""
    times = []
    gc.disable()
    try:
        for _ in range(3):
            begin = time.process_time()
            write(num_messages)
            times.append(time.process_time() - begin)
    finally:
        gc.enable()
    return min(times)


def go(num_messages):
    messages = [Message(role="user", content="x" * 200)] * num_messages
    chat_prompt(Template.parse(LOOP), messages, ContextLimit(10**9, len))


def jinja(num_messages):
    messages = [{"role": "system", "content": "s"}] + [{"role": "user", "content": "x" * 200}] * num_messages
    assert JinjaTemplate(REFUSES_SYSTEM).execute(Values(messages=messages)).startswith("<user> s\n\nxxx")


def unanswered_calls(num_messages):
    """Half of the messages are results of one call each."""
    calls = [{"id": "", "function": {"name": "f", "arguments": {}}} for _ in range(num_messages)]
    results = [{"role": "tool", "content": "1"} for _ in range(num_messages)]
    _with_ids([{"role": "assistant", "content": "", "tool_calls": calls}, *results])


@pytest.mark.parametrize("write", [go, jinja, unanswered_calls])
def test_time_grows_with_the_number_of_messages(write):
    write(100)  # starts the worker and imports what is needed
    few, many = seconds(write, FEW), seconds(write, MANY)
    assert many < 2.5 * (MANY / FEW) * few, (few, many)  # quadratic time gives up to 4 * (MANY / FEW)

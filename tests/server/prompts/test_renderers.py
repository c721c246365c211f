"""Prompts of built-in renderers (RENDERER of a Modelfile), against those that Ollama 0.12.11 wrote."""

import json

from recorded import check, load, outcome, recorded_outcome

from vkbackend.server.go.binding import bind
from vkbackend.server.prompts import renderers
from vkbackend.server.prompts.gotemplate import TemplateError
from vkbackend.server.prompts.prompt_text import ContextLimit, Thinking, chat_prompt
from vkbackend.server.wire.native import ChatRequest


def render(vector):
    ask = bind(ChatRequest, json.dumps({key: vector.get(key) for key in ("messages", "tools", "think")}).encode())
    return chat_prompt(
        renderers.named(vector["renderer"]),
        ask.messages or [],
        ContextLimit(0, len, truncate=False),
        tools=ask.tools,
        thinking=Thinking(ask.think),
    ).text


def test_recorded_prompts():
    check(load("renderers"), lambda vector: (outcome(lambda: render(vector), TemplateError), recorded_outcome(vector)))


def test_what_no_recording_has():
    """Several system messages, values and types that are not strings, a call in the last message."""
    tool = {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "required": ["n"],
                "properties": {"n": {"type": ["integer", "null"], "enum": [1, 2]}},
            },
        },
    }
    call = {"function": {"name": "f", "arguments": {"a": None, "b": [1], "c": 1.5, "d": True}}}
    messages = [
        {"role": "system", "content": "One"},
        {"role": "system", "content": "Two"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    text = render({"renderer": "qwen3-coder", "messages": messages, "tools": [tool], "think": None})
    assert text.startswith("<|im_start|>system\nOne\n\n# Tools") and "Two" not in text
    assert (
        "<parameter>\n<name>n</name>\n<type>number | "
        'null</type>\n<enum>[1,2]</enum>\n</parameter>\n<required>["n"]</required>'
    ) in text
    assert text.endswith(
        "<function=f>\n<parameter=a>\nnull\n</parameter>\n<parameter=b>\n[1]\n</parameter>\n"
        "<parameter=c>\n1.5\n</parameter>\n"
        "<parameter=d>\ntrue\n</parameter>\n</function>\n</tool_call><|im_end|>\n"
    )
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "\nA", "thinking": "\nhm\n"}]
    text = render({"renderer": "qwen3-vl-thinking", "messages": messages, "tools": None, "think": None})
    assert text.endswith("<|im_start|>assistant\n<think>\nhm\n</think>\n\nA")

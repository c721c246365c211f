"""Prompts of built-in renderers (RENDERER of a Modelfile), against those that Ollama 0.12.11 wrote."""

import json

from recorded import check, load, outcome, recorded_outcome
from server import renderers
from server.gotemplate import TemplateError
from server.messages import ChatRequest, bind
from server.prompt import ContextLimit, Thinking, chat_prompt


def render(vector):
    ask = bind(ChatRequest, json.dumps({key: vector.get(key) for key in ("messages", "tools", "think")}).encode())
    return chat_prompt(renderers.named(vector["renderer"]), ask.messages or [], ContextLimit(0, len, truncate=False), tools=ask.tools,
                       thinking=Thinking(ask.think)).text


def test_recorded_prompts():
    check(load("renderers"), lambda vector: (outcome(lambda: render(vector), TemplateError), recorded_outcome(vector)))

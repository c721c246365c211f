"""Prompts from messages: recorded cases, and properties that always hold."""

import base64
import json

import pytest
from shared_data import shared

from vkbackend.server.go.binding import bind
from vkbackend.server.prompts.gotemplate import Template
from vkbackend.server.prompts.prompt_text import ContextLimit, PromptError, Thinking, chat_prompt, generate_prompt
from vkbackend.server.wire.native import ChatRequest, Message


def count_words(text):
    return len(text.split())


def test_recorded_prompts():
    vectors = json.loads((shared("vectors") / "chat_prompt.json").read_text())
    assert len(vectors) > 100
    wrong = []
    for vector in vectors:
        body = {"messages": vector["messages"], "tools": vector.get("tools"), "think": vector["think"]}
        ask = bind(ChatRequest, json.dumps(body).encode())
        limit = ContextLimit(vector["num_ctx"], count_words, vector["truncate"], vector["has_projector"])
        try:
            prompt = chat_prompt(
                Template.parse(vector["template"]),
                ask.messages,
                limit,
                tools=ask.tools,
                thinking=Thinking(ask.think),
                one_image_only="mllama" in (vector["model_families"] or []),
            )
            got = (
                prompt.text,
                [{"id": index, "data": base64.b64encode(image).decode()} for index, image in enumerate(prompt.images)],
            )
        except PromptError as error:
            got = str(error)
        if got != (vector["error"] if "error" in vector else (vector["prompt"], vector["images"])):
            wrong.append((vector["name"], got))
    assert wrong == []


CONVERSATION = [
    Message(role="system", content="sys"),
    Message(role="user", content="a b c"),
    Message(role="assistant", content="d"),
    Message(role="user", content="e f"),
]
PLAIN = Template.parse("{{ range .Messages }}<{{ .Role }}> {{ .Content }} {{ end }}")


@pytest.mark.parametrize("num_ctx", range(1, 14))
def test_what_is_left_out_are_the_oldest_messages(num_ctx):
    words = chat_prompt(PLAIN, CONVERSATION, ContextLimit(num_ctx, count_words)).text.split()
    whole = chat_prompt(PLAIN, CONVERSATION, ContextLimit(0, count_words, truncate=False)).text.split()
    assert words[-3:] == ["<user>", "e", "f"] and words[:2] == ["<system>", "sys"]
    assert words[2:] == whole[len(whole) - len(words) + 2 :]
    assert len(words) <= num_ctx or len(words) == 5  # the last message stays even if it is too long


def test_messages_of_the_caller_stay_as_they_were():
    message = Message(role="user", content="look", images=[b"x"])
    prompt = chat_prompt(PLAIN, [message], ContextLimit(100, count_words))
    assert prompt.text == "<user> [img-0]look " and prompt.images == [b"x"]
    assert message == Message(role="user", content="look", images=[b"x"])


def test_a_long_conversation_that_fits_is_counted_once():
    counted = []
    messages = [Message(role="user", content=str(number)) for number in range(500)]
    chat_prompt(PLAIN, messages, ContextLimit(10_000, lambda text: counted.append(text) or count_words(text)))
    assert len(counted) == 1


def test_suffix_and_context_stand_around_the_prompt():
    template = Template.parse("<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>")
    assert (
        generate_prompt(template, prompt="a", suffix="b", context_text="before ").text == "before <PRE> a <SUF>b <MID>"
    )

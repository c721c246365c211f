"""Conversion of /v1 requests to native ones, against recordings of Ollama 0.12.11, and our own extensions."""

import json

import pytest
from recorded import load

from vkbackend.server.go import encode
from vkbackend.server.openai import requests
from vkbackend.server.openai.errors import InvalidRequest, own_error
from vkbackend.server.wire import openai

KINDS = {
    "/v1/chat/completions": (openai.ChatCompletionRequest, requests.chat_request),
    "/v1/completions": (openai.CompletionRequest, requests.generate_request),
    "/v1/embeddings": (openai.EmbedRequest, requests.embed_request),
}


# The original refuses a list of prompts on /v1/completions; OpenAI's API takes it, and clients of it send nothing else.
LISTS_OF_PROMPTS = {"openai-request-158", "openai-request-159"}


def convert(endpoint, body):
    """(status, text) of a converted request."""
    cls, to_native = KINDS[endpoint]
    try:
        return 200, encode.dumps(to_native(requests.read(cls, body.encode())))
    except InvalidRequest as error:
        return 400, encode.dumps(own_error(400, str(error)))


def test_recorded_requests():
    vectors = load("openai_requests")
    assert len(vectors) == 128
    wrong = []
    for vector in vectors:
        if vector["name"] in LISTS_OF_PROMPTS:
            continue
        got = convert(vector["endpoint"], vector["body"])
        want = vector["status"], vector["converted_text"] if vector["status"] == 200 else vector["response"]
        if got != want:
            wrong.append((vector["name"], vector["body"], got, want))
    assert wrong == [], "\n".join(map(str, wrong))


def chat_request(**body):
    ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | body
    return requests.chat_request(requests.read(openai.ChatCompletionRequest, json.dumps(ask).encode()))


def test_the_id_of_a_tool_call_is_kept():
    """Which call an answer belongs to: its id goes with it, and the tool's name is found by it, also with two calls
    of one name.
    """
    calls = [
        {
            "id": f"call_{city}",
            "type": "function",
            "function": {"name": "weather", "arguments": json.dumps({"city": city})},
        }
        for city in "ab"
    ]
    found = chat_request(
        messages=[
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_b", "content": [{"type": "text", "text": "rain"}]},
            {"role": "tool", "tool_call_id": "call_a", "content": "sun"},
        ]
    ).messages
    assert [call.id for call in found[0].tool_calls] == ["call_a", "call_b"] and [
        call.function.index for call in found[0].tool_calls
    ] == [0, 1]
    assert [(message.content, message.tool_call_id, message.tool_name) for message in found[1:]] == [
        ("rain", "call_b", "weather"),
        ("sun", "call_a", "weather"),
    ]


def test_required_is_left_out_of_tools_that_do_not_give_it():
    for given in ({}, {"required": ["city"]}):
        parameters = {"type": "object", **given, "properties": {"city": {"type": "string"}}}
        found = chat_request(tools=[{"type": "function", "function": {"name": "weather", "parameters": parameters}}])
        assert json.loads(encode.dumps(found.tools[0]))["function"]["parameters"] == parameters


@pytest.mark.parametrize(
    "asked, found",
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["a", [1]], ["a", [1]]),
    ],
)
def test_prompts(asked, found):
    assert requests.prompts(asked) == found


@pytest.mark.parametrize("more", [{}, {"echo": True}, {"raw": True}])
def test_lists_of_prompts_are_taken_with_and_without_echo(more):
    ask = requests.read(openai.CompletionRequest, json.dumps({"model": "m", "prompt": ["a", "b"]} | more).encode())
    assert requests.generate_request(ask).prompt == "" and requests.prompts(ask.prompt) == ["a", "b"]

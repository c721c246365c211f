"""Requests of /v1: how they become native ones, against what Ollama 0.12.11 was recorded to make of them, and what is ours."""

import pytest
from recorded import load

from server import go_json
from server.openai import messages, requests
from server.openai.errors import InvalidRequest, own_error

KINDS = {"/v1/chat/completions": (messages.ChatCompletionRequest, requests.chat_request),
         "/v1/completions": (messages.CompletionRequest, requests.generate_request),
         "/v1/embeddings": (messages.EmbedRequest, requests.embed_request)}


def convert(endpoint, body):
    """-> (status, text)"""
    cls, to_native = KINDS[endpoint]
    try:
        return 200, go_json.dumps(to_native(requests.read(cls, body.encode())))
    except InvalidRequest as error:
        return 400, go_json.dumps(own_error(400, str(error)))


def test_recorded_requests():
    vectors = load("openai_requests")
    assert len(vectors) == 128
    wrong = []
    for vector in vectors:
        got = convert(vector["endpoint"], vector["body"])
        want = vector["status"], vector["converted_text"] if vector["status"] == 200 else vector["response"]
        if got != want:
            wrong.append((vector["name"], vector["body"], got, want))
    assert wrong == [], "\n".join(map(str, wrong))

"""Conversion of native answers to those of /v1, whole, streamed and failed, against recordings of Ollama 0.12.11."""

import asyncio
import json
import re
from contextlib import asynccontextmanager
from types import SimpleNamespace

from aiohttp.test_utils import TestClient, TestServer
from recorded import check, load

from vkbackend.server.app import build_app
from vkbackend.server.errors import ApiError
from vkbackend.server.go import encode
from vkbackend.server.go.binding import bind
from vkbackend.server.http.streams import Replies
from vkbackend.server.library import describe
from vkbackend.server.library.store import ModelNotFound
from vkbackend.server.loading.loaded_models import LoadedModels
from vkbackend.server.openai import answers, choices, errors, requests
from vkbackend.server.openai.errors import native_error, own_error
from vkbackend.server.wire.native import ChatResponse, EmbedResponse, GenerateResponse, ListResponse
from vkbackend.server.wire.openai import EmbedRequest

RECORDED_TIME = 1706933106789000000  # 2024-02-03T04:05:06.789Z
IDS = re.compile(r'"(chatcmpl|cmpl)-\d+"')
NOW = re.compile(r'"created":(?!1706933106\b)\d{9,}')


def error_of(value, status):
    text = ": ".join(part for part in (value.get("Status", ""), value["error"]) if part)  # api.StatusError
    return ApiError(value.get("status", status), text)


def scripted(vector, cls):
    """A stand-in for `replies` that gives what the recorded handler gave."""
    values = vector["handler_values"]

    async def pieces():
        for value in values:
            if "error" in value:
                raise error_of(value, 500)
            yield bind(cls, json.dumps(value).encode())

    @asynccontextmanager
    async def replies(context, turn):
        if vector["handler_status"] != 200:
            raise error_of(values[0], vector["handler_status"])
        if vector["handler_streams"]:
            yield Replies(pieces=pieces())
        else:
            yield Replies(single=bind(cls, json.dumps(values[0]).encode()))

    return replies


class ScriptedStore:
    """The store of the recorded models: llama3."""

    def get(self, name):
        if name.model != "llama3":
            raise ModelNotFound(name)
        return SimpleNamespace(modified_at=RECORDED_TIME)

    def prune(self):
        pass

    def rename_old_blobs(self):
        pass


def normal(text):
    return NOW.sub('"created":0', IDS.sub(r'"\1-N"', text))


def test_recorded_answers(monkeypatch):
    vectors = [vector for vector in load("openai_responses", "response") if vector["endpoint"] != "/v1/embeddings"]
    assert len(vectors) > 40

    async def ask_all():
        wrong = []
        async with TestClient(TestServer(build_app(ScriptedStore(), LoadedModels(ScriptedStore(), None)))) as client:
            for vector in vectors:
                cls = ChatResponse if vector["endpoint"] == "/v1/chat/completions" else GenerateResponse
                monkeypatch.setattr(choices, "replies", scripted(vector, cls))
                if vector["endpoint"] == "/v1/models":
                    listed = bind(ListResponse, json.dumps(vector["handler_values"][0]).encode())
                    monkeypatch.setattr(describe, "list_models", lambda store, listed=listed: listed)
                method = "GET" if vector["endpoint"].startswith("/v1/models") else "POST"
                answer = await client.request(method, vector["endpoint"], data=vector["request"].encode())
                got = answer.status, answer.headers["Content-Type"], normal(await answer.text())
                want = vector["status"], vector["content_type"], vector["response"]
                if got != want:
                    wrong.append(f"{vector['name']}\n  got  {got}\n  want {want}")
        return wrong

    wrong = asyncio.run(ask_all())
    assert not wrong, "\n".join(wrong)


def test_recorded_embeddings():
    def told(vector):
        (value,) = vector["handler_values"]
        if "error" in value:
            return errors.answer(error_of(value, vector["handler_status"]))[:2]
        asked = requests.read(EmbedRequest, vector["request"].encode())
        return 200, encode.dumps(
            answers.embedding_list(asked.model, bind(EmbedResponse, json.dumps(value).encode()), asked.encoding_format)
        ) + "\n"

    vectors = [vector for vector in load("openai_responses", "response") if vector["endpoint"] == "/v1/embeddings"]
    assert len(vectors) == 5
    check(vectors, lambda vector: (told(vector), (vector["status"], vector["response"])))


def test_recorded_errors_of_the_layer_itself():
    check(
        load("openai_responses", "new_error"),
        lambda vector: (encode.dumps(own_error(vector["code"], vector["message"])), vector["json"]),
    )


def test_recorded_texts_of_status_errors():
    vectors = [vector for vector in load("api_requests_responses", "status_error_text") if not vector["status"]]
    check(vectors, lambda vector: (native_error(vector["error"]).error.message, vector["output"]))

"""Requests without a model name or with an invalid one: status and text on each route are those of Ollama 0.12.11."""

import asyncio
import json

import pytest
from generate_world import serving
from manage_models import make_model
from manage_world import talk
from yarl import URL

from vkbackend.server.go.human import shortened
from vkbackend.server.library.store import Store

JSON, PLAIN_JSON = "application/json; charset=utf-8", "application/json"
INVALID = [
    "bad//name",
    "m:",
    ":t",
    "a/b/c/d/e",
    "-m",
    "m m",
    "\u00fc",
    "../m",
    "m\n",
    "a" * 81,
    "x/" + "n" * 81 + "/m",
    "a/" * 1000 + "m",
]
MESSAGES = [{"role": "user", "content": "a"}]


def told(name: str) -> str:
    return shortened(name)


def openai_error(text: str) -> dict:
    return {"error": {"message": text, "type": "api_error", "param": None, "code": None}}


# (path, other fields, key of the name, status and error for an empty name, those for an invalid one where they differ)
ROUTES = [
    ("/api/generate", {"prompt": "a"}, "model", (404, "model '{}' not found"), (404, "model '{}' not found")),
    ("/api/chat", {"messages": MESSAGES}, "model", (400, "model is required"), (400, "model is required")),
    ("/api/embed", {"input": "a"}, "model", (404, 'model "{}" not found, try pulling it first'), None),
    ("/api/embeddings", {"prompt": "a"}, "model", (400, "model is required"), (400, "model is required")),
    ("/api/show", {}, "model", (400, "model is required"), (500, "invalid model path")),
    ("/api/show", {}, "name", (400, "model is required"), (500, "invalid model path")),
    ("/api/pull", {}, "model", (400, "invalid model name"), (400, "invalid model name")),
    ("/api/create", {"from": "m"}, "model", (400, "invalid model name"), (400, "invalid model name")),
    ("/api/copy", {"destination": "n"}, "source", (400, 'source "{}" is invalid'), (400, 'source "{}" is invalid')),
    ("/api/copy", {"source": "m"}, "destination", (400, 'destination "{}" is invalid'), None),
    ("/api/delete", {}, "model", (400, 'name "{}" is invalid'), None),
]


def quoted(text: str, name: str) -> str:
    """If the original quotes the name, a line end is an escape."""
    return text.format(told(name).replace("\n", "\\n") if '"{}"' in text else told(name))


@pytest.mark.parametrize(
    "path, fields, key, empty, invalid", ROUTES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_name_that_is_none_is_refused_as_by_the_original(tmp_path, path, fields, key, empty, invalid):
    store = Store(tmp_path / "store")
    make_model(store, "m", tmp_path)

    async def conversation(client):
        for name, (status, text) in [(None, empty), ("", empty), *((name, invalid or empty) for name in INVALID)]:
            body = fields if name is None else fields | {key: name}
            answer = await client.request("DELETE" if path == "/api/delete" else "POST", path, json=body)
            assert (answer.status, answer.headers["Content-Type"]) == (status, JSON), name
            assert await answer.json() == {"error": quoted(text, name or "")}

    talk(store, conversation)


def test_openai_routes_refuse_them_in_their_own_shape(tmp_path):
    routes = [
        ("/v1/chat/completions", {"messages": MESSAGES}, 400, "model is required"),
        ("/v1/completions", {"prompt": "a"}, 404, "model '{}' not found"),
        ("/v1/completions", {"prompt": "a", "echo": True, "max_tokens": 0}, 404, "model '{}' not found"),
        ("/v1/embeddings", {"input": "a"}, 404, 'model "{}" not found, try pulling it first'),
    ]

    async def conversation(client):
        for path, fields, status, text in routes:
            for name in ["", *INVALID]:
                answer = await client.post(path, json=fields | {"model": name})
                assert (answer.status, answer.headers["Content-Type"]) == (status, PLAIN_JSON), (path, name)
                assert await answer.json() == openai_error(quoted(text, name))
        for name in INVALID:
            url = URL(
                str(client.make_url("/v1/models/")) + URL.build(path=name).raw_path.replace("/", "%2F"), encoded=True
            )
            answer = await client.session.get(url)
            assert (answer.status, await answer.json()) == (500, openai_error("invalid model path")), name

    talk(Store(tmp_path / "store"), conversation)


# Text in a body -> how the original quotes it.
ODD_NAMES = [
    (b"a b", r"a b"),
    (b"\\u0000\\u0007\\u001b\\t\\n", r"\x00\a\x1b\t\n"),
    (b'"\\\\\x7f'.replace(b'"', b'\\"'), r"\"\\\x7f"),
    ("\ufeff\u200b\u00ad\u00a0\u2028\ue000".encode(), r"\ufeff\u200b\u00ad\u00a0\u2028\ue000"),
    (b"\\ud800x\\udc00", "\ufffdx\ufffd"),
    (b"\\ud83d\\ude00\xf0\x9f\x98\x80", "\U0001f600\U0001f600"),
    (b"\xff\xe2\x82", "\ufffd\ufffd\ufffd"),
    ("\U000e0001\U0010ffff".encode(), r"\U000e0001\U0010ffff"),
]
QUOTING = [
    ("/api/copy", b'{"source":"%s/ ","destination":"n"}', 400, 'source "{}/ " is invalid'),
    ("/api/copy", b'{"source":"m","destination":"%s/ "}', 400, 'destination "{}/ " is invalid'),
    ("/api/delete", b'{"model":"%s/ "}', 400, 'name "{}/ " is invalid'),
    ("/api/embed", b'{"model":"%s/ ","input":"a"}', 404, 'model "{}/ " not found, try pulling it first'),
    (
        "/api/chat",
        b'{"model":"m","think":"%s/ "}',
        400,
        'invalid think value: "{}/ " (must be "high", "medium", "low", true, or false)',
    ),
]


@pytest.mark.parametrize("path, body, status, text", QUOTING, ids=lambda value: value if isinstance(value, str) else "")
def test_texts_in_errors_are_quoted_as_by_the_original(tmp_path, path, body, status, text):
    store = Store(tmp_path / "store")
    make_model(store, "m", tmp_path)

    async def conversation(client):
        for name, written in ODD_NAMES:
            data = body % name
            answer = await client.request("DELETE" if path == "/api/delete" else "POST", path, data=data)
            assert (answer.status, await answer.json()) == (status, {"error": text.format(written)}), data

    talk(store, conversation)


def test_a_format_in_errors_is_quoted_byte_by_byte(tmp_path):
    """As sent on the native API; as Ollama's own JSON on /v1."""
    sent = b'[ "<\xff\xe2\x80\xa8" ,"\\u003c"]'
    words = 'invalid format: "{}"; expected "json" or a valid JSON Schema object'

    async def scenario():
        async with serving(tmp_path) as client:
            answer = await client.post("/api/generate", data=b'{"model":"m","prompt":"a","format":%s}' % sent)
            written = r"[ \"<\xff\u2028\" ,\"\\u003c\"]"
            assert (answer.status, await answer.json()) == (500, {"error": words.format(written)})
            body = b'{"model":"m","messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_schema",'
            answer = await client.post("/v1/chat/completions", data=body + b'"json_schema":{"schema":%s}}}' % sent)
            written = r"[\"\\u003c\xff\\u2028\",\"\\u003c\"]"
            assert (answer.status, (await answer.json())["error"]["message"]) == (500, words.format(written))

    asyncio.run(scenario())


def test_a_base_that_is_no_name_is_refused(tmp_path):
    async def conversation(client):
        for name in INVALID:
            for stream in (True, False):
                answer = await client.post("/api/create", json={"model": "x", "from": name, "stream": stream})
                assert (answer.status, answer.headers["Content-Type"]) == (400, PLAIN_JSON)
                assert await answer.json() == {"error": "invalid model name"}

    talk(Store(tmp_path / "store"), conversation)


@pytest.mark.parametrize(
    "name, words", [("nobody/nothing", "model 'nobody/nothing' not found"), ("bad//name", "invalid model name")]
)
def test_a_push_tells_of_its_model_after_its_first_line(tmp_path, name, words):
    """As a stream with status 200, as one answer with status 500; only a missing name is refused before."""

    async def conversation(client):
        answer = await client.post("/api/push", json={"model": name})
        lines = [json.loads(line) for line in (await answer.text()).splitlines()]
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
        assert lines == [{"status": "retrieving manifest"}, {"status": "couldn't retrieve manifest"}, {"error": words}]
        answer = await client.post("/api/push", json={"name": name, "stream": False})
        assert (answer.status, answer.headers["Content-Type"]) == (500, PLAIN_JSON) and await answer.json() == {
            "error": words
        }
        for body in ({}, {"model": "", "name": ""}):
            answer = await client.post("/api/push", json=body)
            assert (answer.status, answer.headers["Content-Type"]) == (400, JSON) and await answer.json() == {
                "error": "model is required"
            }

    talk(Store(tmp_path / "store"), conversation)


def test_a_pull_that_fails_says_so_in_its_stream(tmp_path):
    async def conversation(client):
        body = {"model": "http://127.0.0.1:1/library/m", "insecure": True}
        answer = await client.post("/api/pull", json=body)
        first, last = [json.loads(line) for line in (await answer.text()).splitlines()]
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
        assert first == {"status": "pulling manifest"} and last["error"].startswith("pull model manifest: ")
        answer = await client.post("/api/pull", json=body | {"stream": False})
        assert (answer.status, answer.headers["Content-Type"]) == (500, PLAIN_JSON) and (await answer.json()) == last

    talk(Store(tmp_path / "store"), conversation)


def test_head_is_a_method_of_as_many_routes_as_in_the_original(tmp_path):
    async def conversation(client):
        for path in ("/", "/api/version", "/api/tags"):
            assert (await client.head(path)).status == 200
        for path, allowed in [
            ("/v1/models", "GET"),
            ("/v1/models/m", "GET"),
            ("/api/ps", "GET"),
            ("/v1/chat/completions", "POST"),
            ("/v1/completions", "POST"),
            ("/v1/embeddings", "POST"),
            ("/api/generate", "POST"),
            ("/api/delete", "DELETE"),
        ]:
            answer = await client.head(path)
            assert (answer.status, answer.headers["Allow"], await answer.text()) == (405, allowed, ""), path

    talk(Store(tmp_path / "store"), conversation)


@pytest.mark.parametrize("path, fields", [("/api/generate", {"prompt": "a"}), ("/api/chat", {"messages": MESSAGES})])
def test_a_format_that_is_none_is_an_error_of_the_stream(tmp_path, path, fields):
    async def scenario():
        async with serving(tmp_path) as client:
            for stream, content_type in ((True, PLAIN_JSON), (None, PLAIN_JSON), (False, JSON)):
                answer = await client.post(path, json={"model": "m", "format": "xml", "stream": stream} | fields)
                assert (answer.status, answer.headers["Content-Type"]) == (500, content_type)
                assert (await answer.json())["error"].startswith('invalid format: "\\"xml\\""; expected ')

    asyncio.run(scenario())


def test_a_long_text_is_shown_by_its_beginning(tmp_path):
    """Quoting all of it would hold up other clients."""
    long = '"' * 3_000_000
    fields = [{"format": long[:100_000]}, {"options": {"logit_bias": {long: 1}}}]

    async def scenario():
        async with serving(tmp_path) as client:
            for more in fields:
                answer = await client.post("/api/generate", json={"model": "m", "prompt": "a", "stream": False} | more)
                text = (await answer.json())["error"]
                assert answer.status in (400, 500) and len(text) < 2000 and "\u2026" in text

    asyncio.run(scenario())

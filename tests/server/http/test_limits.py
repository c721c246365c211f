"""Sizes of what a request may hold: each is accepted at its limit, and refused one beyond with words that name it
(docs/limits.md).
"""

import asyncio
import base64
import json
import re
import threading
from contextlib import closing

import pytest
from first_value import parse_first
from live_server import LiveServer
from places import ROOT
from tiny_server import with_model

from vkbackend.server.errors import ApiError
from vkbackend.server.go.decode import MAX_DEPTH, MAX_VALUES, JSONSyntaxError
from vkbackend.server.http import bodies, responses
from vkbackend.server.prompts.gotemplate import Template, TemplateError, Values, budget
from vkbackend.server.prompts.jinja.worker_process import Worker
from vkbackend.server.wire import conversation, limits, native, openai

SHORT = {"num_predict": 1, "num_ctx": 512}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with LiveServer(
        tmp_path_factory.mktemp("store"), environment={"VKBACKEND_MAX_BODY_BYTES": str(8 << 20)}
    ) as running:
        with_model(running, tmp_path_factory.mktemp("gguf"))
        yield running


def chat(server, **fields):
    return server.call(
        "POST",
        "/api/chat",
        {"model": "m", "messages": [{"role": "user", "content": "a"}], "stream": False, "options": SHORT, **fields},
    )


def generate(server, **fields):
    return server.call(
        "POST", "/api/generate", {"model": "m", "prompt": "a", "stream": False, "options": SHORT, **fields}
    )


def stops(strings):
    return {"options": {**SHORT, "stop": strings}}


def schema(size):
    text = json.dumps({"type": "object", "description": ""})
    return {"format": {"type": "object", "description": "x" * (size - len(text))}}


EDGES = [
    ("stop strings", generate, lambda size: stops(["q"] * size), limits.MAX_STOPS),
    ("characters in one stop string", generate, lambda size: stops(["q" * size]), limits.MAX_STOP_CHARS),
    ("characters of format", generate, schema, limits.MAX_FORMAT_CHARS),
    ("characters of template", generate, lambda size: {"template": "x" * size}, limits.MAX_TEMPLATE_CHARS),
    ("messages", chat, lambda size: {"messages": [{"role": "user", "content": "a"}] * size}, limits.MAX_MESSAGES),
    ("images", chat, lambda size: {"messages": [{"role": "user", "content": "a", "images": ["QUJD"] * size}]}, 64),
]


@pytest.mark.parametrize("what, ask, fields, most", EDGES, ids=[edge[0] for edge in EDGES])
def test_a_size_is_accepted_at_its_limit_and_refused_beyond(server, what, ask, fields, most):
    status, text = ask(server, **fields(most))
    assert status == 200, text[:300]
    status, text = ask(server, **fields(most + 1))
    assert status == 400 and f"holds {most + 1} {what}, and this server takes {most}" in text


CHECKED = [
    ("tools", lambda size: native.ChatRequest(tools=[conversation.Tool()] * size), limits.MAX_TOOLS),
    ("tools", lambda size: openai.ChatCompletionRequest(tools=[conversation.Tool()] * size), limits.MAX_TOOLS),
    ("inputs", lambda size: native.EmbedRequest(input=["a"] * size), limits.MAX_INPUTS),
    ("inputs", lambda size: openai.EmbedRequest(input=[7] * size), limits.MAX_INPUTS),
    ("biases", lambda size: native.ChatRequest(options={"logit_bias": biases(size)}), limits.MAX_BIASES),
    ("biases", lambda size: openai.CompletionRequest(logit_bias=biases(size)), limits.MAX_BIASES),
    ("stop strings", lambda size: openai.CompletionRequest(stop=["a"] * size), limits.MAX_STOPS),
    ("messages", lambda size: native.CreateRequest(messages=[conversation.Message()] * size), limits.MAX_MESSAGES),
    ("files", lambda size: native.CreateRequest(files=dict.fromkeys(map(str, range(size)), "")), limits.MAX_FILES),
    ("licenses", lambda size: native.CreateRequest(license=["a"] * size), limits.MAX_LICENSES),
]


def biases(size):
    return dict.fromkeys(map(str, range(size)), 1.0)


@pytest.mark.parametrize(
    "what, ask, most", CHECKED, ids=[f"{type(ask(0)).__name__}: {what}" for what, ask, _ in CHECKED]
)
def test_a_number_is_accepted_at_its_limit_and_refused_beyond(what, ask, most):
    limits.check(ask(most))
    with pytest.raises(ApiError, match=f"holds {most + 1} {what}, and this server takes {most}; send fewer") as raised:
        limits.check(ask(most + 1))
    assert raised.value.status == 400


def test_levels_of_json_are_accepted_at_their_limit_and_refused_beyond():
    parse_first(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    with pytest.raises(JSONSyntaxError, match="exceeded max depth"):
        parse_first(b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2))


@pytest.mark.parametrize("write", ["Go template", "Jinja template"])
def test_a_prompt_is_accepted_at_its_limit_and_refused_beyond(write):
    most = budget.MAX_CHARS
    text = "x" * most

    def rendered(extra: str) -> int:
        if write == "Go template":
            source = "{{ range .Messages }}{{ .Content }}{{ end }}" + extra
            return len(Template.parse(source).execute(Values(messages=[{"role": "user", "content": text}])))
        with closing(Worker()) as worker:
            told = worker.ask("{{ text }}" + extra, {"text": text})
        if "error" in told:
            raise TemplateError(told["error"])
        return len(told["text"])

    assert rendered("") == most
    with pytest.raises(TemplateError, match=f"writes more than {most} characters"):
        rendered("x")


def test_tasks_are_accepted_at_their_limit_and_refused_beyond(monkeypatch):
    monkeypatch.setattr(responses, "_num_tasks", responses.MAX_TASKS - 1)

    async def conversation():
        gate = threading.Event()
        first = asyncio.create_task(responses.progress(None, lambda report: gate.wait(10), stream=False))
        await asyncio.sleep(0.1)
        with pytest.raises(ApiError, match=f"busy with {responses.MAX_TASKS} tasks") as raised:
            await responses.progress(None, lambda report: None, stream=False)
        assert raised.value.status == 503
        gate.set()
        assert (await first).status == 200
        assert (await responses.progress(None, lambda report: None, stream=False)).status == 200

    asyncio.run(conversation())


def test_a_body_is_accepted_at_its_limit_and_refused_beyond(server):
    body = json.dumps({"model": "m"}).encode()
    assert server.call("POST", "/api/show", body + b" " * ((8 << 20) - len(body)))[0] == 200
    status, text = server.call("POST", "/api/show", body + b" " * ((8 << 20) + 1 - len(body)))
    assert status == 413 and "larger than 8388608 bytes" in text


def test_a_million_json_values_are_read_and_one_more_is_refused():
    most = MAX_VALUES
    assert len(parse_first(b"[" + b"1," * (most - 2) + b"1]")) == most - 1
    with pytest.raises(ApiError, match=f"holds more than {most} values") as raised:
        parse_first(b"[" + b"1," * (most - 1) + b"1]")
    assert raised.value.status == 413


def test_ten_photographs_fit():
    assert 10 * len(base64.b64encode(bytes(12 << 20))) < bodies.max_body_bytes()


def test_the_table_shows_the_limits_in_force():
    table = (ROOT / "docs/limits.md").read_text().replace(",", "")
    for name in filter(re.compile("MAX_").match, vars(limits)):
        assert re.search(rf"`{name}`[^\n]*\| {getattr(limits, name)} ", table), name
    assert re.search(rf"`MAX_VALUES`[^\n]*\| {MAX_VALUES} ", table)

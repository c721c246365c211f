"""Sizes of what a request may hold: each is accepted at its limit, and refused one beyond with words that name it
(docs/limits.md).
"""

import base64
import json
import re

import pytest
from live_server import LiveServer
from places import ROOT
from tiny_server import with_model

from vkbackend.server.errors import ApiError
from vkbackend.server.go.decode import MAX_VALUES, parse_first
from vkbackend.server.http import limits

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
    assert 10 * len(base64.b64encode(bytes(12 << 20))) < limits.max_body_bytes()


def test_the_table_shows_the_limits_in_force():
    table = (ROOT / "docs/limits.md").read_text().replace(",", "")
    for name in ("MAX_MESSAGES", "MAX_TOOLS", "MAX_STOPS", "MAX_STOP_CHARS", "MAX_FORMAT_CHARS", "MAX_TEMPLATE_CHARS"):
        assert re.search(rf"`{name}`[^\n]*\| {getattr(limits, name)} ", table), name
    assert re.search(rf"`MAX_VALUES`[^\n]*\| {MAX_VALUES} ", table)

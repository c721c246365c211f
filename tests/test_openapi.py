"""The OpenAPI document says what the server does: every route, the requests that clients send and the answers that they get; and its page."""

import asyncio
import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import jsonschema
import pytest
from recorded import load
from test_manage import talk

from server import app
from server.openai import messages as openai
from server.service import openapi
from server.service.openapi.operations import OPERATIONS
from server.service.openapi.schemas import component_name
from server.store import Store

DOCUMENT = openapi.build("1.2.3")
# Taken, but not to be recommended: no model, null in place of a text, numbers as stop strings, a negative top_logprobs.
LENIENT = {f"openai-request-{number}" for number in ("004", "021", "022", "023", "053", "149", "156", "161")}


def valid(value, name: str) -> str:
    """Empty where `value` fits the component, else why not."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(value)
    return "; ".join(f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors)


def test_every_route_has_its_line():
    assert {(route.method, route.path) for route in app.ROUTES} == set(OPERATIONS)


def test_schemas_are_schemas():
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        for reference in re.findall(r'"\$ref": "([^"]*)"', json.dumps(schema)):
            assert reference.removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"], (name, reference)
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT


@pytest.mark.parametrize("path, name", [("/v1/chat/completions", "openai.ChatCompletionRequest"), ("/v1/completions", "openai.CompletionRequest"),
                                        ("/v1/embeddings", "openai.EmbedRequest")])
def test_requests_that_are_taken_fit(path, name):
    """All that were recorded with status 200, but for those that only leniency lets pass."""
    vectors = [vector for vector in load("openai_requests")
               if vector["status"] == 200 and vector["endpoint"] == path and vector["name"] not in LENIENT]
    wrong = [f"{vector['name']} {vector['body']}: {problem}" for vector in vectors
             if (problem := valid(json.JSONDecoder().raw_decode(vector["body"])[0], name))]
    assert not wrong and len(vectors) > 5, "\n".join(wrong)


def test_answers_fit(tmp_path):
    async def conversation(client):
        for (method, path), operation in OPERATIONS.items():
            if method == "GET" and isinstance(operation.answer, (type, dict)) and "{" not in path:
                answer = await client.get(path)
                schema = operation.answer if isinstance(operation.answer, dict) else {
                    "$ref": f"#/components/schemas/{component_name(operation.answer)}", "components": DOCUMENT["components"]}
                assert answer.status == 200 and answer.content_type == "application/json"
                jsonschema.validate(await answer.json(), schema)
    talk(Store(tmp_path / "store"), conversation)


def unbalanced(page: str) -> list[str]:
    """Tags that are closed where another one is open, or not at all."""
    opened, wrong = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "br"):
                opened.append(tag)

        def handle_endtag(self, tag):
            if not opened or opened.pop() != tag:
                wrong.append(tag)

    Reader().feed(page)
    return wrong + opened


def test_the_page_shows_everything_and_needs_nothing_from_elsewhere(tmp_path):
    async def conversation(client):
        answer = await client.get("/docs")
        return answer.headers, await answer.text()
    headers, page = talk(Store(tmp_path / "store"), conversation)
    for method, path in OPERATIONS:
        assert f'<span class="method">{method}</span><code>{path}</code>' in page
    for name in DOCUMENT["components"]["schemas"]:
        assert f'id="{name}"' in page
    assert unbalanced(page) == []
    targets = set(re.findall(r'href="#([^"]*)"', page))
    assert targets and all(f'id="{target}"' in page for target in targets)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in headers["Content-Security-Policy"] and "default-src 'none'" in headers["Content-Security-Policy"]
    assert "<script" not in page and not re.search(r'(?:src|href)="(?!#|/openapi\.json")', page) and "url(" not in page

"""The OpenAPI document matches the server: its routes, the requests of clients, and the answers."""

import json
import re

import jsonschema
import pytest
from manage_world import talk
from recorded import load

from vkbackend.server import openapi
from vkbackend.server.library.store import Store
from vkbackend.server.openapi.schemas import component_name
from vkbackend.server.routes.table import OPERATIONS, ROUTES

DOCUMENT = openapi.build("1.2.3", OPERATIONS)
# Taken, but not to be recommended: no model, null in place of a text, numbers as stop strings, a negative top_logprobs.
LENIENT = {f"openai-request-{number}" for number in ("004", "021", "022", "023", "053", "149", "156", "161")}


def valid(value, name: str) -> str:
    """Why `value` does not match the component; empty if it does."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(value)
    return "; ".join(f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors)


def test_every_route_is_in_the_document():
    for route in ROUTES:
        assert DOCUMENT["paths"][route.path][route.method.lower()]["summary"] == route.operation.summary


def test_schemas_are_schemas():
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        for reference in re.findall(r'"\$ref": "([^"]*)"', json.dumps(schema)):
            assert reference.removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"], (
                name,
                reference,
            )
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT


@pytest.mark.parametrize(
    "path, name",
    [
        ("/v1/chat/completions", "openai.ChatCompletionRequest"),
        ("/v1/completions", "openai.CompletionRequest"),
        ("/v1/embeddings", "openai.EmbedRequest"),
    ],
)
def test_requests_that_are_taken_fit(path, name):
    """All that were recorded with status 200, except those accepted only out of leniency."""
    vectors = [
        vector
        for vector in load("openai_requests")
        if vector["status"] == 200 and vector["endpoint"] == path and vector["name"] not in LENIENT
    ]
    wrong = [
        f"{vector['name']} {vector['body']}: {problem}"
        for vector in vectors
        if (problem := valid(json.JSONDecoder().raw_decode(vector["body"])[0], name))
    ]
    assert not wrong and len(vectors) > 5, "\n".join(wrong)


def test_examples_are_requests():
    for operations in DOCUMENT["paths"].values():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content:
                assert (
                    valid(content["example"], content["schema"]["$ref"].rpartition("/")[2]) == "" and content["example"]
                )


def test_answers_fit(tmp_path):
    async def conversation(client):
        for (method, path), operation in OPERATIONS.items():
            if method == "GET" and isinstance(operation.answer, (type, dict)) and "{" not in path:
                answer = await client.get(path)
                schema = (
                    operation.answer
                    if isinstance(operation.answer, dict)
                    else {
                        "$ref": f"#/components/schemas/{component_name(operation.answer)}",
                        "components": DOCUMENT["components"],
                    }
                )
                assert answer.status == 200 and answer.content_type == "application/json"
                jsonschema.validate(await answer.json(), schema)

    talk(Store(tmp_path / "store"), conversation)


@pytest.mark.parametrize(
    "path, condition",
    [
        ("/api/chat", "unless `stream` is false"),
        ("/v1/chat/completions", "if `stream` is true"),
        ("/v1/completions", "if `stream` is true"),
    ],
)
def test_the_document_says_when_a_route_streams(path, condition):
    assert condition in DOCUMENT["paths"][path]["post"]["responses"]["200"]["description"]

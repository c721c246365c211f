"""Builds the OpenAPI document. In: the table of operations. Out: a dict that JSON can hold."""

from dataclasses import fields
from typing import Any

from ..wire.content_types import PLAIN_JSON
from ..wire.openai import ErrorResponse
from .operations import NDJSON, Operation, Operations
from .schemas import Schemas

# Values in the example requests of the page; optional fields are left out.
EXAMPLES = {
    "model": "smollm2",
    "prompt": "The sky is",
    "messages": [{"role": "user", "content": "Hello"}],
    "input": "The sky is",
    "source": "smollm2",
    "destination": "a-copy",
    "stream": False,
}
NATIVE_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def build(version: str, operations: Operations) -> dict:
    """The document; `version` is the server's."""
    schemas = Schemas()
    paths: dict[str, dict[str, dict]] = {}
    openai_error = schemas.of_class(ErrorResponse)
    for (method, path), operation in operations.items():
        error = openai_error if path.startswith("/v1/") else NATIVE_ERROR
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, operation, schemas, error)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vkbackend",
            "version": version,
            "license": {"name": "MIT"},
            "description": "GGUF language models on any Vulkan GPU: the APIs of Ollama 0.12.11 and OpenAI, with "
            "log-probabilities of every token. "
            "A logprob is the natural logarithm of the softmax of the raw logits.",
        },
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.components.items()))},
    }


def _operation(method: str, path: str, operation: Operation, schemas: Schemas, error: dict) -> dict:
    name = method.lower() + path.replace("/", "_").replace("{", "").replace("}", "")
    made: dict[str, Any] = {"operationId": name, "summary": operation.summary, "tags": [operation.tag]}
    if operation.parameters:
        made["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": text,
                "schema": {"type": "string"} | ({"pattern": pattern} if pattern else {}),
            }
            for name, (text, pattern) in operation.parameters.items()
        ]
    if isinstance(operation.request, str):
        made["requestBody"] = {
            "required": True,
            "content": {operation.request: {"schema": {"type": "string", "format": "binary"}}},
        }
    elif operation.request is not None:
        example = {
            field.metadata["name"]: EXAMPLES[field.metadata["name"]]
            for field in fields(operation.request)
            if field.metadata["name"] in EXAMPLES
        }
        content = {"schema": schemas.of_class(operation.request), "example": example}
        made["requestBody"] = {"required": True, "content": {PLAIN_JSON: content}}
    made["responses"] = {str(operation.status): _success(operation, schemas)}
    if operation.request == "application/octet-stream":
        made["responses"]["200"] = {"description": "the blob already exists"}
    failure = {"description": "error message"}
    made["responses"]["default"] = (
        failure if method == "HEAD" else failure | {"content": {PLAIN_JSON: {"schema": error}}}
    )
    return made


def _success(operation: Operation, schemas: Schemas) -> dict:
    if operation.answer is None:
        return {"description": "done"}
    if isinstance(operation.answer, str):
        return {"description": "text", "content": {operation.answer: {"schema": {"type": "string"}}}}
    if isinstance(operation.answer, dict):
        return {"description": "the answer", "content": {PLAIN_JSON: {"schema": operation.answer}}}
    content = {PLAIN_JSON: {"schema": schemas.of_class(operation.answer)}}
    if not operation.stream:
        return {"description": "the answer", "content": content}
    chunk = schemas.of_class(operation.chunk or operation.answer)
    if operation.early:
        chunk = {"anyOf": [chunk, schemas.of_class(operation.early)]}
    form = "one line of JSON each" if operation.stream == NDJSON else "one event each, then `[DONE]`"
    condition = "unless `stream` is false" if operation.streams_by_default else "if `stream` is true"
    return {
        "description": f"the answer as one object, or, {condition}, as a stream of objects, {form}",
        "content": content | {operation.stream: {"schema": chunk}},
    }

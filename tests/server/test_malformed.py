"""1,000 malformed requests, made by schemathesis from the server's own OpenAPI document: the only server errors are
those whose texts are recorded from Ollama 0.12.11, and the server works afterwards.
"""

import json
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from types import SimpleNamespace

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.core import NOT_SET
from tiny_gguf import write_tiny_gguf

from vkbackend import settings
from vkbackend.server import openapi
from vkbackend.server.library import create
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.store import Store
from vkbackend.server.routes.table import OPERATIONS
from vkbackend.server.serving import own_server
from vkbackend.server.wire import native

NUM_REQUESTS = 1000
MOST_SECONDS = 90  # on a busy machine; a fraction of it is usual
BODIES = [f"{method} {path}" for (method, path), operation in OPERATIONS.items() if isinstance(operation.request, type)]
# Status 500 as Ollama has it: recorded (conformance/, vectors/) unless the line says otherwise.
RECORDED = [
    r"option \".*\" must be of ",
    r"invalid model path$",
    r"invalid model name$",  # of /api/push, which looks for its model after its first line
    r'invalid format: .*; expected "json" or a valid JSON Schema object$',
    r"invalid JSON schema in format$",
    r"Failed to create new sequence: no input provided$",  # an embedding of no token; llamarunner's words, not recorded
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server in this process with one model, `tiny`, that answers briefly; its registries do not exist."""
    folder = tmp_path_factory.mktemp("malformed")
    store = Store(folder / "models")
    digest, _ = store.add_blob(write_tiny_gguf(folder / "tiny.gguf").read_bytes())
    request = native.CreateRequest(
        model="tiny", files={"m.gguf": digest}, parameters={"num_predict": 2.0, "num_ctx": 256.0}
    )
    create.create(store, request, parse_name("tiny"), lambda *_: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_MODELS", str(store.root))
        patch.setenv("OLLAMA_VULKAN", "0")
        patch.setenv("VKBACKEND_REGISTRY_URLS", "registry.ollama.ai=http://127.0.0.1:1")
        patch.setenv("VKBACKEND_CACHE", str(settings.cache_folder()))
        with own_server() as served:
            yield served


def cases(operation, number: int) -> list:
    """`number` malformed requests for an operation, the same ones in every run."""
    made = []

    @hypothesis_settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def collect(case):
        made.append(case)

    collect()
    return made


def send(url: str, method: str, path: str, body: bytes) -> SimpleNamespace:
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return SimpleNamespace(status=answer.status, text=answer.read().decode())
    except urllib.error.HTTPError as error:
        return SimpleNamespace(status=error.code, text=error.read().decode())


def body_of(case, number: int) -> bytes:
    """Every second request to run a model names the existing one, so that the other fields are checked."""
    if isinstance(case.body, bytes):
        return case.body
    body = case.body
    if isinstance(body, dict) and number % 2 and OPERATIONS[case.method, case.path].tag in ("generation", "OpenAI"):
        body = body | {"model": "tiny"}
    return b"" if body is NOT_SET else json.dumps(body).encode()


def error_text(text: str) -> str:
    """The error of an answer, or of the last line of a stream."""
    error = json.loads(text.strip().splitlines()[-1])["error"]
    return error["message"] if isinstance(error, dict) else error


def test_no_malformed_request_is_an_error_of_the_server(url, record_figure):
    schema = schemathesis.openapi.from_dict(openapi.build("0.1.0", OPERATIONS))
    operations = {operation.ok().label: operation.ok() for operation in schema.get_all_operations()}
    counts, wrong, start = Counter(), [], time.monotonic()
    for label in BODIES:
        for number, case in enumerate(cases(operations[label], -(-NUM_REQUESTS // len(BODIES)))):
            body = body_of(case, number)
            answer = send(url, case.method, case.path, body)
            counts[answer.status] += 1
            if answer.status >= 500 and not any(re.match(words, error_text(answer.text)) for words in RECORDED):
                wrong.append(f"{label} {body[:300]!r}: {answer.status} {answer.text[:300]}")
    seconds = time.monotonic() - start
    by_status = ", ".join(f"{count} of status {status}" for status, count in sorted(counts.items()))
    record_figure(f"{counts.total()} malformed requests in {seconds:.0f} s: {by_status}")
    assert not wrong, f"{len(wrong)} of {counts.total()}:\n" + "\n".join(wrong[:10])
    assert counts.total() >= NUM_REQUESTS and counts[400] > NUM_REQUESTS / 3, "the test tests nothing"
    assert seconds < MOST_SECONDS
    answer = send(
        url, "POST", "/api/generate", json.dumps({"model": "tiny", "prompt": "hello", "stream": False}).encode()
    )
    assert answer.status == 200 and json.loads(answer.text)["eval_count"] > 0

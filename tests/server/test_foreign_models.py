"""Models that cannot run here are listed and shown like others, and say why they cannot run; requests over HTTP that
reach for other files.
"""

import hashlib
import json

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from live_server import LiveServer
from manage_models import write_gguf


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    # A name that is valid would be pulled: nothing answers there.
    nowhere = {"VKBACKEND_REGISTRY_URLS": "registry.ollama.ai=http://127.0.0.1:1"}
    with LiveServer(tmp_path_factory.mktemp("models"), environment=nowhere) as server:
        yield server


def call(server, method, path, body=None):
    """(status, answer), parsed if it is JSON"""
    status, text = server.call(method, path, body)
    return status, json.loads(text) if text.startswith(("{", "[")) else text


def add(server, name, contents: bytes, **request):
    digest = f"sha256:{hashlib.sha256(contents).hexdigest()}"
    assert call(server, "POST", f"/api/blobs/{digest}", contents)[0] in (200, 201)
    return call(server, "POST", "/api/create", {"model": name, "files": {"m.gguf": digest}, "stream": False} | request)


def exotic_quantization(path):
    """A llama model with one matrix of a type that has no kernel here."""
    writer = GGUFWriter(path, "llama")
    sizes = {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 256,
        "feed_forward_length": 256,
        "attention.head_count": 4,
    }
    for key, value in sizes.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b"])
    writer.add_token_merges(["a b"])
    writer.add_tensor("token_embd.weight", np.zeros((2, 2048), np.uint8), raw_dtype=GGMLQuantizationType.F64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    "name, write, words",
    [
        ("other", lambda path: write_gguf(path, "grok"), "has the architecture 'grok'; readable here: "),
        ("exotic", exotic_quantization, "token_embd.weight is F64; readable here: "),
    ],
)
def test_it_lists_and_shows_and_says_why_it_does_not_run(server, tmp_path, name, write, words):
    assert add(server, name, write(tmp_path / "m.gguf").read_bytes()) == (200, {"status": "success"})
    assert f"{name}:latest" in [model["name"] for model in call(server, "GET", "/api/tags")[1]["models"]]
    status, shown = call(server, "POST", "/api/show", {"model": name})
    assert status == 200 and shown["details"]["format"] == "gguf" and shown["tensors"]
    for path, body in (
        ("/api/generate", {"prompt": "a"}),
        ("/api/chat", {"messages": [{"role": "user", "content": "a"}]}),
    ):
        status, answer = call(server, "POST", path, {"model": name, "stream": False} | body)
        assert status == 500 and words in answer["error"], answer
    assert call(server, "POST", "/api/copy", {"source": name, "destination": "copied"})[0] == 200
    for model in (name, "copied"):
        assert call(server, "DELETE", "/api/delete", {"model": model})[0] == 200


SECRET = "of no concern to anybody"


@pytest.mark.parametrize(
    "trick",
    [
        "../secret",
        "..%2fsecret",
        "%2e%2e%2fsecret",
        "/etc/passwd",
        "sha256:../../secret",
        "sha256-" + "g" * 64,
        "sha256:" + "0" * 63,
        "..",
        "%00",
    ],
)
def test_no_request_reads_or_writes_outside_of_the_store(server, trick):
    folder = server.models_folder.parent
    (folder / "secret").write_text(SECRET)
    before = {path for path in folder.iterdir()}
    asked = [
        ("HEAD", f"/api/blobs/{trick}", None),
        ("POST", f"/api/blobs/{trick}", b"x"),
        ("GET", f"/api/blobs/{trick}", None),
        ("POST", "/api/show", {"model": trick}),
        ("DELETE", "/api/delete", {"model": trick}),
        ("POST", "/api/copy", {"source": trick, "destination": trick}),
        ("POST", "/api/create", {"model": trick, "from": trick, "stream": False}),
        ("POST", "/api/create", {"model": "m", "from": trick, "stream": False}),
        ("POST", "/api/create", {"model": "m", "files": {trick: trick}, "stream": False}),
        (
            "POST",
            "/api/create",
            {"model": "m", "files": {"config.json": trick, "model.safetensors": trick}, "stream": False},
        ),
        ("POST", "/api/create", {"model": "m", "adapters": {"a": trick}, "files": {"m.gguf": trick}, "stream": False}),
        ("POST", "/api/generate", {"model": trick, "prompt": "x"}),
    ]
    for method, path, body in asked:
        status, answer = call(server, method, path, body)
        assert status in (301, 307, 400, 404, 405, 500) and SECRET not in str(answer), (
            method,
            path,
            body,
            status,
            answer,
        )
    assert {path for path in folder.iterdir()} == before and (folder / "secret").read_text() == SECRET
    assert call(server, "GET", "/api/tags")[1]["models"] == []

"""Adapters over HTTP: recorded answers, and models with and without one that share a base."""

import hashlib
import json
import re
import subprocess
import sys

import pytest
from live_server import LiveServer
from shared_data import shared
from tiny_adapter import random_pairs, write_adapter
from tiny_gguf import write_tiny_gguf

PROMPT = {
    "prompt": "the and the hell on the",
    "raw": True,
    "stream": False,
    "logprobs": True,
    "options": {"temperature": 0, "num_predict": 9},
}
# An adapter alone and a model as one are refused, other architectures have adapters, and the rows of B are ordered.
BETTER = {"lora_as_model", "lora_model_as_adapter", "lora_new_engine", "lora_st_qk"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with LiveServer(tmp_path_factory.mktemp("models")) as server:
        yield server


def test_answers_are_those_recorded(server):
    """But for what is better here."""
    folder = shared("oracles") / "misc"
    command = [sys.executable, folder / "replay_misc.py", "--base", server.url, "--params", '{"num_thread": 1}']
    done = subprocess.run([*command, folder / "lora" / "llama"], capture_output=True, text=True, timeout=300)
    assert set(re.findall(r"^FAIL \S+ (\S+)", done.stdout, re.M)) == BETTER, done.stdout + done.stderr
    assert "21 passed, 4 failed" in done.stdout


def call(server, path: str, body: object) -> dict:
    status, text = server.call("POST", path, body)
    assert status in (200, 201), text
    return json.loads(text) if text else {}


def test_a_model_and_its_adapted_form_keep_apart(server, tmp_path):
    """Neither of them continues from what the other one has in its cache."""
    base = write_tiny_gguf(tmp_path / "base.gguf", "llama", "q8_0")
    adapter = write_adapter(tmp_path / "adapter.gguf", random_pairs(base, 8), alpha=16.0)
    digests = []
    for path in (base, adapter):
        digests.append(f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")
        call(server, f"/api/blobs/{digests[-1]}", path.read_bytes())
    call(server, "/api/create", {"model": "plain", "files": {"m.gguf": digests[0]}, "stream": False})
    adapted = {"model": "adapted", "from": "plain", "adapters": {"a.gguf": digests[1]}, "stream": False}
    call(server, "/api/create", adapted)
    found = [
        [entry["logprob"] for entry in call(server, "/api/generate", {"model": model} | PROMPT)["logprobs"]]
        for model in ("plain", "adapted", "plain", "adapted")
    ]
    assert found[0] == found[2] != found[1] == found[3]

"""Recorded requests that outgrow their context: counts, reasons and the text up to the shift, through the server."""

import json
from pathlib import Path

import pytest
from compare_oracles import cases
from create_requests import call, create, upload
from live_server import LiveServer
from shared_data import shared

# Models whose layers see all positions, or windows of them.
MODELS = ("qwen2", "gpt2", "stablelm", "gemma2", "exaone4", "smollm3", "llama-rope-freqs", "granite")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with LiveServer(tmp_path_factory.mktemp("models"), environment={"OLLAMA_VULKAN": "0"}) as server:
        yield server


@pytest.mark.parametrize("name", MODELS)
def test_a_shift_keeps_the_recorded_counts(server, name):
    case: Path = cases(shared("oracles/text"))[name]
    assert create(server, name, upload(server, (case / "model.gguf").read_bytes()))[0] == 200
    recorded = next(
        each for each in json.loads((case / "cases.json").read_text())["requests"] if each["name"] == "shift"
    )
    request = recorded["request"] | {"model": name, "keep_alive": 0}
    status, answer = call(server, "/api/generate", request)
    assert status == recorded["status"], answer
    expected = recorded["response"]
    for key in ("prompt_eval_count", "eval_count", "done_reason"):
        assert answer[key] == expected[key], (key, answer[key], expected[key])
    before = request["options"]["num_ctx"] - expected["prompt_eval_count"]
    tokens = [each["token"] for each in answer["logprobs"]][:before]
    ties = [step for step in recorded["near_ties"] if step < before]
    until = min(ties, default=before)
    assert tokens[:until] == expected["tokens"][:until]

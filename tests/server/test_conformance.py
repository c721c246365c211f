"""All recorded conversations with Ollama 0.12.11, replayed against `vkbackend serve` on the default device.

Those marked as quirks of the original are left out; the better behaviour has tests of its own (see
test_openai_extras.py and test_openai_completions.py for /v1).
"""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from live_server import free_port, wait_for_port
from places import ROOT
from shared_data import shared
from starter_models import model_path


@pytest.fixture(scope="module")
def served(device, tmp_path_factory):
    port, folder = free_port(), tmp_path_factory.mktemp("served")
    environment = os.environ | {
        "OLLAMA_VULKAN": "1",
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(folder / "models"),
    }
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vkbackend", "serve"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        try:
            wait_for_port(port, process)
            yield f"http://127.0.0.1:{port}", folder
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def test_recorded_conversations(served, tmp_path, record_figure):
    url, folder = served
    program, report = shared("conformance") / "replay.py", tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable,
            program,
            "--base",
            url,
            "--smollm2",
            model_path("smollm2"),
            "--gemma3",
            model_path("gemma3"),
            "--skip-quirks",
            "--report",
            report,
        ],
        capture_output=True,
        text=True,
    )
    assert report.exists(), done.stdout + done.stderr + (folder / "log").read_text()
    results = {case["id"]: case["ok"] for case in json.loads(report.read_text())["cases"]}
    failed = sorted(name for name, passed in results.items() if not passed)
    record_figure(
        f"conformance: {len(results) - len(failed)} of {len(results)} pass; fail: {', '.join(failed) or 'none'}"
    )
    assert len(results) > 190
    assert failed == [], done.stdout
    with urllib.request.urlopen(url + "/api/version") as answer:  # still there
        assert json.load(answer) == {"version": "0.12.11"}

"""Replays recorded conversations of Ollama 0.12.11 with Qwen2.5-Coder-0.5B against a server that it starts.

    python tests/support/replay_qwen.py [--cpu] [CASE...]     all cases, or those named

Cases marked as quirks of the original are left out. Ends with status 1 if a case fails.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from live_server import LiveServer
from shared_data import shared
from starter_models import model_path

NAME = "qwen2.5-coder"


def create(server: LiveServer, name: str = NAME) -> None:
    """Create the model with the template and system text of the recordings under `name`. Its blob is a link."""
    recorded = json.loads((shared("oracles") / "misc" / NAME / "model.json").read_text())
    blobs = server.models_folder / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    blob = blobs / f"sha256-{recorded['gguf_sha256']}"
    if not blob.exists():
        blob.symlink_to(model_path(NAME))
    body = json.dumps(recorded["create"] | {"model": name}).encode()
    with urllib.request.urlopen(server.url + "/api/create", body) as answer:
        assert json.load(answer) == {"status": "success"}


def request(case: str) -> dict:
    """The body of the first request of a recorded conversation."""
    path = shared("oracles") / "misc" / NAME / "cases" / f"{case}.json"
    return json.loads(path.read_text())["steps"][0]["request"]["json"]


def replay(url: str, report: Path, cases: list[str]) -> tuple[dict[str, float], list[str], str]:
    """-> (seconds of each case by its name, names of those that failed, what the program wrote)."""
    program = shared("conformance") / "replay.py"
    folder = shared("oracles") / "misc" / NAME / "cases"
    command = [sys.executable, program, "--base", url, "--cases", folder, "--no-provision", "--skip-quirks"]
    chosen = [argument for case in cases for argument in ("--only", f"[q]{case[1:]}")]  # a pattern: the whole name
    done = subprocess.run([*command, "-v", "--report", report, *chosen], capture_output=True, text=True)
    assert report.exists(), done.stdout + done.stderr
    results = json.loads(report.read_text())["cases"]
    failed = [result["id"] for result in results if not result["ok"]]
    return {result["id"]: result["seconds"] for result in results}, failed, done.stdout


def main(arguments: list[str]) -> int:
    environment = {"OLLAMA_VULKAN": "0" if "--cpu" in arguments else "1"}
    cases = [argument for argument in arguments if argument != "--cpu"]
    with (
        tempfile.TemporaryDirectory() as folder,
        LiveServer(Path(folder) / "models", environment=os.environ | environment) as server,
    ):
        create(server)
        _, failed, said = replay(server.url, Path(folder) / "report.json", cases)
    print(said, end="")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

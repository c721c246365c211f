"""Without OLLAMA_VULKAN=1, `serve` and `run` load no Vulkan driver."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from cli_world import ok
from live_server import free_port, wait_for_port
from places import ROOT
from vulkan_drivers import DEFAULT, missing

RUN = """
import sys
sys.stderr.isatty = lambda: True  # so that `run` says where models run
from vkbackend.server.cli.main import cli
cli(["run", "tiny", "hello"])
"""

# with "1" the driver is loaded, which shows that the test would see it
pytestmark = pytest.mark.parametrize("switched_on", ["0", "1"])


def environment(folder: Path, switched_on: str) -> dict[str, str]:
    """Each process writes what it loads into a file in `folder`: a driver that lists devices is unloaded again."""
    if sys.platform != "linux":
        missing("glibc's LD_DEBUG, which lists the libraries")
    log = {"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(folder / "libraries")}
    return {**os.environ, **DEFAULT.require().environment, "OLLAMA_VULKAN": switched_on, **log}


def was_driver_loaded(folder: Path) -> bool:
    assert DEFAULT.manifest is not None
    driver = Path(json.loads(DEFAULT.manifest.read_text())["ICD"]["library_path"]).name
    loaded = "".join(path.read_text(errors="replace") for path in folder.glob("libraries.*"))
    assert "libc.so" in loaded, "nothing was recorded"
    return driver in loaded


def test_serve_loads_a_driver_only_if_switched_on(here, tmp_path, gguf, switched_on):
    ok(here("create", "tiny", "--gguf", gguf))
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "vkbackend", "serve"],
        cwd=ROOT,
        env=environment(tmp_path, switched_on) | {"OLLAMA_HOST": f"127.0.0.1:{port}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, process)
        body = json.dumps({"model": "tiny", "prompt": "hello", "options": {"num_predict": 2}, "stream": False})
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/generate", body.encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["done"]
    finally:
        process.terminate()
        process.wait(20)
    assert was_driver_loaded(tmp_path) == (switched_on == "1")


def test_run_loads_a_driver_only_if_switched_on(here, tmp_path, gguf, switched_on):
    ok(here("create", "tiny", "--gguf", gguf))
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=ROOT,
        env=environment(tmp_path, switched_on),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Models run on: " in done.stderr
    assert was_driver_loaded(tmp_path) == (switched_on == "1")

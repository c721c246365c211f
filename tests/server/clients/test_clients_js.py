"""Ollama's and OpenAI's clients for JavaScript, each in a node process of its own, against the server with a real
model.
"""

import json
import os
import shutil
import subprocess

import pytest
from clients_world import ANSWER, check_logprobs, cosine, serving
from places import CLIENTS
from vulkan_drivers import missing

from vkbackend import settings

SCRIPT = CLIENTS / "javascript.cjs"
SECONDS = 90


@pytest.fixture(scope="module")
def node():
    """Runs the script: node(client, url) -> what it got."""
    modules = settings.cache_folder() / "clients" / "node_modules"
    if shutil.which("node") is None:
        missing("node is not installed (setup.sh does not install it)")
    if not (modules / "openai").exists():
        missing(f"the JavaScript clients are not in {modules} (bash scripts/setup.sh --tests installs them)")

    def run(client, url):
        environment = os.environ | {"NODE_PATH": str(modules)}
        done = subprocess.run(
            ["node", SCRIPT, client, url], capture_output=True, text=True, timeout=SECONDS, env=environment
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def url(node, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("clients")) as url:
        yield url


@pytest.mark.parametrize("client", ["ollama", "openai"])
def test_javascript(node, url, client):
    found = node(client, url)
    assert found["streamed"] == found["whole"] == ANSWER
    check_logprobs(found["logprobs"])
    assert json.loads(found["structured"])["city"] in ("Paris", "Rome")
    (call,) = found["calls"]
    arguments = call["function"]["arguments"]
    assert call["function"]["name"] == "get_weather"
    assert (json.loads(arguments) if client == "openai" else arguments)["city"] in ("Paris", "Rome")
    red, blue = found["embeddings"]
    assert len(red) == len(blue) == 576 and 0.5 < cosine(red, blue) < 0.9999
    assert set(found["models"]) == {"smollm2:latest", "caller:latest"} and "'nobody' not found" in found["missing"]
    if client == "openai":
        assert found["usage"] == {"prompt_tokens": 16, "completion_tokens": 8, "total_tokens": 24}

"""The same request on the same device gives the same bits, in three processes, with cold and warm shader caches."""

import os
import subprocess
import sys

import pytest
from places import SUPPORT
from starter_models import model_path


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_log_probabilities_are_bit_identical(name, tmp_path, device):
    model = model_path(name)
    environment = {
        **os.environ,
        "OLLAMA_VULKAN": "1",
        "VKBACKEND_CACHE": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "driver"),
    }
    runs = []
    for _ in ("cold", "warm", "warm"):
        done = subprocess.run(
            [sys.executable, SUPPORT / "print_logprobs.py", str(model)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        runs.append(done.stdout)
    assert len(runs[0].splitlines()) == 24 * 6
    assert (tmp_path / "pipelines").exists()
    assert runs[0] == runs[1] == runs[2]

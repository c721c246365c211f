"""The same request gives the same bits in several processes, on a device and on the CPU."""

import os
import subprocess
import sys

import pytest
from places import SUPPORT
from starter_models import model_path


def printed(name: str, environment: dict, *arguments: str) -> str:
    """What a process of its own prints for the model."""
    command = [sys.executable, SUPPORT / "print_logprobs.py", model_path(name), *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 24 * 6
    return done.stdout


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_log_probabilities_are_bit_identical(name, tmp_path, device):
    """With cold and warm shader caches."""
    environment = {
        "OLLAMA_VULKAN": "1",
        "VKBACKEND_CACHE": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "driver"),
    }
    runs = [printed(name, environment) for _ in ("cold", "warm", "warm")]
    assert (tmp_path / "pipelines").exists()
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_log_probabilities_are_bit_identical_on_ggml(name, on_ggml):
    """Whatever the number of threads, and whatever memory holds that was allocated and not written."""
    one = printed(name, {"OLLAMA_VULKAN": "", "MALLOC_PERTURB_": "85"}, "1")
    assert printed(name, {"OLLAMA_VULKAN": "", "MALLOC_PERTURB_": "170"}, "2") == one

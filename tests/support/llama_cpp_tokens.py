"""Tokens as llama.cpp finds them, in a process of its own."""

import importlib.util
import json
import subprocess
import sys

from places import SUPPORT
from vulkan_drivers import missing


def llama_cpp(requests: dict) -> dict:
    if importlib.util.find_spec("xllamacpp") is None:
        missing("xllamacpp is not installed (bash scripts/setup.sh --tests installs it)")
    program = SUPPORT / "llama_cpp_tokenize.py"
    done = subprocess.run(
        [sys.executable, program], input=json.dumps(requests), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)

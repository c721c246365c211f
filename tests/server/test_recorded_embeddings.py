"""Embeddings of models made for them, as recorded."""

import re
import subprocess
import sys

import pytest
from live_server import LiveServer
from shared_data import shared
from tiny_gguf import write_tiny_gguf

from vkbackend.errors import UnsupportedModel
from vkbackend.loading import read

# An empty text has the vector of the model's special tokens, whatever the architecture; the original refuses it here.
BETTER = {"qwen3-embed_empty", "qwen3-embed_openai"}


def test_vectors_of_a_decoder_are_those_recorded(tmp_path):
    """Its rows are 48 wide, which kernels pad; the vectors are not padded."""
    folder = shared("oracles") / "misc"
    with LiveServer(tmp_path) as server:
        command = [sys.executable, folder / "replay_misc.py", "--base", server.url, folder / "embed" / "qwen3-embed"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert set(re.findall(r"^FAIL \S+ (\S+)", done.stdout, re.M)) == BETTER, done.stdout + done.stderr
    assert "9 passed, 2 failed" in done.stdout


def test_a_pooling_that_is_not_implemented_is_named(tmp_path):
    """The vectors of such a model would be wrong."""
    path = write_tiny_gguf(tmp_path / "m.gguf", "gemma3", fields={"gemma3.pooling_type": 1})
    with pytest.raises(UnsupportedModel, match="gemma3 models with pooling 'mean' are not implemented"):
        read(path)

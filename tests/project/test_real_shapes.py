"""scripts/real_shapes writes models that load and run, and scarce_memory.py shows the product less memory."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from places import ROOT, SUPPORT

from vkbackend.session import Session

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
VOCABULARY = {"tokens": LETTERS + [a + b + c + d for a in "abcd" for b in LETTERS for c in "ae" for d in "lnrst"]}


@pytest.fixture
def make_gguf(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts/real_shapes"))
    import make_gguf

    return make_gguf


@pytest.mark.parametrize("name", ["gemma4b", "llama7b"])
def test_a_model_of_random_weights_runs(make_gguf, monkeypatch, tmp_path, name):
    small = replace(
        make_gguf.SHAPES[name], width=256, heads=4, kv_heads=2, head_dim=64, feed_forward=512, vocabulary=1200
    )
    monkeypatch.setitem(make_gguf.SHAPES, name, small)
    make_gguf.make(name, VOCABULARY, tmp_path / "model.gguf", layers=2)
    logits = Session(tmp_path / "model.gguf", device=None).logits([2, 300, 301, 302])
    assert np.isfinite(logits).all() and 0.1 < logits.std() < 30


def test_a_device_has_the_memory_that_is_asked_for():
    environment = os.environ | {"DEVICE_GIB": "0.5", "HOST_FREE_GIB": "0.25"}
    command = [sys.executable, SUPPORT / "scarce_memory.py", "devices", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["devices"][0]
    assert (found["memory_total"], found["memory_free"]) == (1 << 29, 1 << 28)

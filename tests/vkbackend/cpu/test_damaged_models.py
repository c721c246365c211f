"""Damaged models on ggml, which ends a process that gives it a tensor that does not fit."""

import json
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT, TESTS

from vkbackend.cpu.memory import Memory
from vkbackend.cpu.pool import Pool
from vkbackend.cpu.program import Program
from vkbackend.graph.builder import Graph
from vkbackend.graph.step import StepShape
from vkbackend.ops.packed import FORMATS


def test_no_damaged_model_ends_the_process(on_ggml, tmp_path):
    """Each is an error that names the file, or gives an answer."""
    command = [sys.executable, str(TESTS / "support" / "run_damaged_models.py"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    damages = [line["damage"] for line in lines[::2]]
    results = [line["result"] for line in lines[1::2]]
    assert len(damages) == len(results) > 200 and results[damages.index("llama: nothing")] == "answered"
    refused = [result for result in results if result != "answered"]
    assert all("damaged.gguf" in result for result in refused), refused
    assert 150 < len(refused) < len(results) - 50, "many are refused, and many run"


@pytest.mark.parametrize(
    "name, k, row_bytes, x_shape, y_shape",
    [
        ("q4_0", 48, 27, (2, 48), (2, 4)),  # not whole blocks
        ("q4_k", 128, 72, (2, 128), (2, 4)),
        ("q4_0", 64, 35, (2, 64), (2, 4)),  # a byte is missing
        ("q4_0", 64, 36, (2, 32), (2, 4)),
        ("q4_0", 64, 36, (2, 64), (2, 5)),
        ("q4_0", 64, 36, (2, 64), (3, 4)),
        ("q4_0", 64, 36, (0, 64), (0, 4)),
    ],
)
def test_products_that_do_not_fit_are_refused(on_ggml, name, k, row_bytes, x_shape, y_shape):
    program = Program(on_ggml, Pool(on_ggml, 1), Graph(StepShape(1, 0), (1, 1)), Memory())
    x, y = np.zeros(x_shape, np.float32), np.zeros(y_shape, np.float32)
    with pytest.raises(ValueError):
        program.product(np.zeros((4, row_bytes), np.uint8), FORMATS[name], x, y)

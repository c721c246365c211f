"""Whether ggml is used: it is tried in a child process first, and without it the log names the extra."""

import logging
import signal
import subprocess

import numpy as np
import pytest
from cpu_programs import require_ggml
from tiny_gguf import write_tiny_gguf

from vkbackend.cpu import library, trial
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import ModelRunner
from vkbackend.graph.numpy_executor import NumpyExecutor
from vkbackend.loading import load


@pytest.fixture(autouse=True)
def untried(monkeypatch, tmp_path):
    monkeypatch.setenv("VKBACKEND_CPU", "ggml")
    monkeypatch.setenv("VKBACKEND_CACHE", str(tmp_path))
    tried = library._tried
    tried.cache_clear()
    yield
    tried.cache_clear()


def ending(monkeypatch, returncode: int, stderr: str = ""):
    """Every trial ends so. Returns the list of trials."""
    trials = []

    def run(command, **options):
        trials.append(command)
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(library.subprocess, "run", run)
    return trials


def test_a_missing_library_is_named_once(monkeypatch, caplog):
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    assert library.ggml() is None and library.ggml() is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "vkbackend[cpu]" in record.getMessage()


def test_without_the_library_numpy_expands_weights_within_the_budget(monkeypatch, tmp_path, caplog):
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    budget = 1 << 20
    model = load(path, copy_budget=budget)
    file_bytes = sum(info.num_bytes for info in model.gguf.tensors.values())
    assert 0 < model.num_bytes - file_bytes <= budget
    runner = ModelRunner(model, context_length=64)
    assert type(runner.executor) is NumpyExecutor
    (row,) = runner.step([SequenceWork(runner.open_sequence(), [5, 9], 1)])
    assert np.isfinite(row.full()).all()
    assert "vkbackend[cpu]" in caplog.text and "has room for 0.00 GiB" in caplog.text


@pytest.mark.parametrize(
    "returncode, stderr, said",
    [
        (-signal.SIGILL, "", "signal 4"),
        (-signal.SIGABRT, "", "signal 6"),
        (1, "x\nwrong products of q4_k\n", "wrong products of q4_k"),
    ],
)
def test_a_library_that_fails_its_trial_is_not_imported(monkeypatch, caplog, returncode, stderr, said):
    require_ggml()
    library._tried.cache_clear()
    for file in library.settings.cache_folder().glob("ggml/*"):
        file.unlink()
    ending(monkeypatch, returncode, stderr)
    monkeypatch.setattr(library.importlib, "import_module", lambda name: pytest.fail("imported"))
    assert library.ggml() is None
    assert said in caplog.text and "vkbackend[cpu]" in caplog.text


def test_a_passed_trial_is_remembered(monkeypatch):
    assert require_ggml() is not None
    library._tried.cache_clear()
    trials = ending(monkeypatch, 1)
    assert library.ggml() is not None and not trials


def test_the_trial_sees_wrong_products(monkeypatch, capsys):
    require_ggml()
    assert trial.main() == 0
    right = trial.matmul.reference
    monkeypatch.setattr(trial.matmul, "reference", lambda x, weight: right(x, weight)[:, ::-1])
    assert trial.main() == 1 and "wrong products of " in capsys.readouterr().err


def test_the_trial_sees_bits_that_depend_on_other_rows(monkeypatch, capsys):
    require_ggml()
    right = trial._product
    monkeypatch.setattr(
        trial, "_product", lambda ggml, pool, weight, x: right(ggml, pool, weight, x) * (1 + len(x) * 1e-6)
    )
    assert trial.main() == 1 and "depend on the other rows" in capsys.readouterr().err


def test_exact_needs_no_library(monkeypatch, caplog):
    monkeypatch.setenv("VKBACKEND_CPU", "exact")
    monkeypatch.setattr(library, "_tried", lambda: pytest.fail("tried"))
    assert library.ggml() is None and not caplog.records

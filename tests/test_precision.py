"""VKBACKEND_PREFILL: prompts in less than float32, where it is asked for, and nowhere else."""

import logging

import numpy as np
import pytest
from tiny_gguf import write_tiny_gguf

from vkbackend.engine.runner import ModelRunner
from vkbackend.engine.work import SequenceWork
from vkbackend.models import load

PROMPT = [int(token) for token in np.random.default_rng(4).integers(0, 250, 40)]


@pytest.fixture(scope="module")
def model(device, tmp_path_factory):
    return load(write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", "llama", "q4_k"), device)


def rows(model, tokens=PROMPT, chunk=64) -> np.ndarray:
    """Logits after the prompt, and after one token more, which is a decode step."""
    runner = ModelRunner(model, context_length=128, prefill_chunk=chunk)
    sequence = runner.open_sequence()
    return np.stack([runner.step([SequenceWork(sequence, part, 1)])[0].full() for part in (tokens, [9])])


@pytest.mark.parametrize("precision, size", [("float16", 3e-3), ("int8", 3e-2)])
def test_prompts_are_rounded_a_little(model, monkeypatch, precision, size):
    exact = rows(model)
    monkeypatch.setenv("VKBACKEND_PREFILL", precision)
    found = rows(model)
    difference = np.abs(found - exact).max() / np.abs(exact).max()
    assert 1e-6 < difference < size


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_strict_mode_and_short_steps_stay_exact(model, monkeypatch, precision):
    exact = rows(model)
    monkeypatch.setenv("VKBACKEND_PREFILL", precision)
    assert rows(model, chunk=8).tobytes() == exact.tobytes()  # steps of 8 tokens are no prompts worth rounding
    monkeypatch.setenv("VKBACKEND_DETERMINISTIC", "1")
    assert rows(model).tobytes() == exact.tobytes()


def test_a_device_without_it_says_so(model, monkeypatch, caplog):
    exact = rows(model)
    monkeypatch.setenv("VKBACKEND_PREFILL", "float16")
    monkeypatch.setattr(type(model.device), "supports", lambda device, feature: feature != "float16" and feature in device.info.features)
    with caplog.at_level(logging.WARNING):
        assert rows(model).tobytes() == exact.tobytes()
    assert "lacks float16" in caplog.text

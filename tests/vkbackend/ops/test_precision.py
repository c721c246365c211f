"""VKBACKEND_PREFILL: prompts in less than float32, where it is asked for, and nowhere else."""

import logging

import numpy as np
import pytest
from tiny_gguf import write_tiny_gguf

from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import ModelRunner
from vkbackend.loading import load
from vkbackend.ops.matmul_kernels import SHARED
from vkbackend.ops.packed import PackedMatrix
from vkbackend.ops.run import reference, run

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
    monkeypatch.setattr(
        type(model.device), "supports", lambda device, feature: feature != "float16" and feature in device.info.features
    )
    with caplog.at_level(logging.WARNING):
        assert rows(model).tobytes() == exact.tobytes()
    assert "lacks float16" in caplog.text


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_decoding_is_not_rounded_in_a_step_with_a_prompt(model, monkeypatch, precision):
    """One token alone, and beside a prompt of another sequence: the same bits."""
    monkeypatch.setenv("VKBACKEND_PREFILL", precision)
    found = []
    for beside in ([], PROMPT):
        runner = ModelRunner(model, context_length=128, prefill_chunk=64, max_sequences=2)
        first, second = runner.open_sequence(), runner.open_sequence()
        runner.step([SequenceWork(first, PROMPT, 1)])
        work = [SequenceWork(first, [9], 1), *([SequenceWork(second, beside, 0)] if beside else [])]
        found.append(runner.step(work)[0].full().tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_logits_are_never_rounded(model, monkeypatch, precision):
    """With as many rows of logits as tokens."""
    monkeypatch.setenv("VKBACKEND_PREFILL", precision)
    found = []
    for outputs in (1, 32):
        runner = ModelRunner(model, context_length=128, prefill_chunk=64)
        found.append(runner.step([SequenceWork(runner.open_sequence(), PROMPT[:32], outputs)])[-1].full().tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("format", ["f16", "bf16", "f32"])
def test_weights_without_codes_stay_exact(device, tmp_path, monkeypatch, format):
    """int8 products need codes: where there are none, nothing is rounded and nothing fails."""
    plain = load(write_tiny_gguf(tmp_path / "plain.gguf", "llama", format), device)
    exact = rows(plain)
    monkeypatch.setenv("VKBACKEND_PREFILL", "int8")
    assert rows(plain).tobytes() == exact.tobytes()


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_gates_on_devices_with_wide_subgroups(device, monkeypatch, precision):
    """Gate and up alternate by 64 rows there: more than a tile of shared memory holds."""
    monkeypatch.setattr(device, "flavor", "subgroup")
    monkeypatch.setattr(device, "lanes", 64)
    rng = np.random.default_rng(3)
    x, weight = rng.standard_normal((35, 256), np.float32), PackedMatrix.random(rng, "q4_k", 192, 256, gated=True)
    found = run(device, "matmul", x, weight, gate="silu", precision=precision, variant={"tile": SHARED})
    np.testing.assert_allclose(
        found, reference("matmul", x, weight, gate="silu", precision=precision), atol=5e-3, rtol=1e-3
    )

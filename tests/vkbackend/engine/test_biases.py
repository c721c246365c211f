"""Weights with a bias: in every product of a model, on the device as in the numpy reference."""

import numpy as np
import pytest
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import ModelRunner
from vkbackend.graph.builder import Graph
from vkbackend.loading import load
from vkbackend.ops.run import reference

NAMES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "output")
PROMPT = [int(token) for token in np.random.default_rng(4).integers(0, 250, 20)]


def rows(path, device=None) -> np.ndarray:
    """Logits after a prompt, and after one token more, which is a decode step."""
    runner = ModelRunner(load(path, device), context_length=64, kv_type="f32")
    sequence = runner.open_sequence()
    return np.stack([runner.step([SequenceWork(sequence, part, 1)])[0].full() for part in (PROMPT, [9])])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("biases", [NAMES, ("attn_k", "ffn_up")], ids=["all", "some of a stack"])
@pytest.mark.parametrize(
    "formats", [{}, {"blk.0.attn_v": "q6_k", "blk.1.ffn_up": "q8_0"}], ids=["one format", "mixed formats"]
)
def test_the_device_adds_them_as_the_reference_does(tmp_path, device, architecture, biases, formats):
    path = write_tiny_gguf(tmp_path / "biased.gguf", architecture, "q4_k", formats=formats, biases=biases)
    found, expected = rows(path, device), rows(path)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_each_changes_the_logits(tmp_path, name):
    plain, biased = (
        write_tiny_gguf(tmp_path / f"{len(biases)}.gguf", "llama", "q8_0", biases=biases) for biases in ((), (name,))
    )
    assert (name == "attn_k") or np.abs(
        rows(plain) - rows(biased)
    ).max() > 1e-3  # the softmax takes out most of a bias of the keys
    assert (rows(plain) != rows(biased)).any()


def test_a_bias_is_added_before_the_gate_and_the_residual():
    rng = np.random.default_rng(1)
    x, weight = rng.standard_normal((2, 32), np.float32), rng.standard_normal((6, 32), np.float32)
    bias, residual = rng.standard_normal(6, np.float32), rng.standard_normal((2, 6), np.float32)
    np.testing.assert_allclose(
        reference("matmul", x, weight, None, residual, bias), x @ weight.T + bias + residual, rtol=1e-5, atol=1e-5
    )


def test_they_take_no_dispatch_of_their_own(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        Graph, "call", lambda graph, op, *_, call=Graph.call, **attrs: (calls.append(op), call(graph, op, *_, **attrs))
    )
    counts = []
    for biases in ((), NAMES):
        rows(write_tiny_gguf(tmp_path / f"{len(biases)}.gguf", biases=biases))
        counts.append(sorted(calls))
        calls.clear()
    assert counts[0] == counts[1]

"""Models on ggml's CPU path: the same bits alone, with neighbors, in chunks of any size, from the cache and on any
number of threads; close to the numpy references; weights stay in the mapped file.
"""

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend.cpu.ggml_executor import GgmlExecutor
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.prefix_cache import Prefix
from vkbackend.engine.runner import ModelRunner
from vkbackend.gguf.reader import GGUFFile
from vkbackend.graph.numpy_executor import NumpyExecutor
from vkbackend.loading import load
from vkbackend.placement.opening import plan_engine

TOKENS = [int(token) for token in np.random.default_rng(1).integers(3, 200, 150)]
CHUNKS = (3, 13, 64)


def prompt_rows(model, tokens=TOKENS, **options) -> np.ndarray:
    """All logits of the last three tokens of a prompt, and of two tokens after it."""
    runner = ModelRunner(model, context_length=256, **options)
    sequence = runner.open_sequence()
    rows = runner.step([SequenceWork(sequence, tokens[:-2], 3)])
    found = [row.full() for row in rows]
    for token in tokens[-2:]:
        found += [row.full() for row in runner.step([SequenceWork(sequence, [token], 1)])]
    return np.stack(found)


@pytest.fixture(params=[*ARCHITECTURES])
def path(request, tmp_path):
    formats = {"blk.1.attn_v": "q6_k", "blk.0.ffn_down": "q8_0", "token_embd": "q6_k"}
    return write_tiny_gguf(tmp_path / "tiny.gguf", request.param, "q4_k", formats=formats)


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
def test_chunks_and_threads_change_no_bit(on_ggml, path, kv_type):
    model = load(path)
    whole = prompt_rows(model, kv_type=kv_type, num_threads=1)
    assert np.isfinite(whole).all() and np.ptp(whole) > 1
    for threads, chunk in zip((1, 2, 3), CHUNKS):
        found = prompt_rows(model, kv_type=kv_type, prefill_chunk=chunk, num_threads=threads)
        assert (found == whole).all(), (threads, chunk)


def test_neighbors_change_no_bit(on_ggml, path):
    """Beside prompts and decoding sequences, and with a prefix from the cache."""
    model = load(path)
    alone = prompt_rows(model)
    runner = ModelRunner(model, context_length=256, max_sequences=4)
    others = [runner.open_sequence() for _ in range(2)]
    runner.step([SequenceWork(others[0], TOKENS[:40], 1)])
    mine = runner.open_sequence(Prefix(TOKENS))
    rows = runner.step(
        [SequenceWork(others[0], [9], 1), SequenceWork(mine, TOKENS[:-2], 3), SequenceWork(others[1], TOKENS[5:60], 1)]
    )
    found = [row.full() for row in rows[1:4]]
    for token in TOKENS[-2:]:
        rows = runner.step([SequenceWork(each, [token], 1) for each in (others[1], mine, others[0])])
        found.append(rows[1].full())
    assert (np.stack(found) == alone).all()
    runner.close_sequence(mine)
    again = runner.open_sequence(Prefix(TOKENS[:-5]))
    known = runner.length(again)
    assert known > 0
    rows = runner.step([SequenceWork(again, TOKENS[known:-2], 3)])
    assert (np.stack([row.full() for row in rows]) == alone[:3]).all()


def test_scores_are_those_of_whole_rows(on_ggml, path):
    model = load(path)
    runner = ModelRunner(model, context_length=256, kv_type="f32")
    scored = runner.step([SequenceWork(runner.open_sequence(), TOKENS[:-1], targets=TOKENS[1:])])
    rows = prompt_rows(model, kv_type="f32")
    assert scored[-2].target_logit == rows[2, TOKENS[-2]]
    assert scored[-2].log_sum_exp == pytest.approx(float(np.logaddexp.reduce(rows[2].astype(np.float64))), abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_f32_models_agree_with_the_references(on_ggml, tmp_path, monkeypatch, architecture):
    """Only the order of sums differs."""
    model = load(write_tiny_gguf(tmp_path / "tiny.gguf", architecture, "f32", biases=("attn_q", "ffn_up", "output")))
    found = prompt_rows(model, kv_type="f32")
    monkeypatch.setenv("VKBACKEND_CPU", "exact")
    expected = prompt_rows(model, kv_type="f32")
    logprobs = [rows - np.logaddexp.reduce(rows, axis=1, keepdims=True) for rows in (found, expected)]
    assert np.abs(logprobs[0] - logprobs[1]).max() <= 1e-4


def test_weights_stay_in_the_file(on_ggml, path):
    model = load(path)
    assert model.num_bytes == sum(info.num_bytes for info in model.gguf.tensors.values())
    assert isinstance(ModelRunner(model, context_length=64).executor, GgmlExecutor)
    before = prompt_rows(model)
    path.unlink()  # the mapping keeps the file
    assert (prompt_rows(model) == before).all()


def misaligned_file(folder) -> Path:
    """A model in a format whose products are ggml's, with tensors at 8 bytes after multiples of 16."""
    for length in (1, 9):
        fields = {"general.alignment": 8, "general.description": "x" * length}
        path = write_tiny_gguf(folder / "misaligned.gguf", format="f16", formats={"token_embd": "q8_0"}, fields=fields)
        offsets = {info.offset % 16 for info in GGUFFile.open(path).tensors.values()}
        if offsets == {8}:
            return path
    raise AssertionError("the length of the metadata changes no offset")


def test_weights_that_ggml_cannot_read_in_the_file_are_copied_once(on_ggml, tmp_path):
    """The plan counts the copies, programs share them, and they are freed with the model."""
    path = misaligned_file(tmp_path)
    aligned = write_tiny_gguf(tmp_path / "aligned.gguf", format="f16", formats={"token_embd": "q8_0"})
    expected = prompt_rows(load(aligned), TOKENS[:20])
    (cpu,) = plan_engine(path, context_length=64, num_gpu=0).places
    tracemalloc.start()
    try:
        model = load(path)
        assert (prompt_rows(model, TOKENS[:20]) == expected).all()
        gc.collect()
        loaded = tracemalloc.get_traced_memory()[0]
        matrices = sum(info.num_bytes for info in model.gguf.tensors.values() if info.type is GGMLQuantizationType.F16)
        assert matrices < cpu.weights < 1.1 * matrices and cpu.weights + cpu.mapped >= model.num_bytes
        assert matrices < loaded
        runner = ModelRunner(model, context_length=64)
        sequence = runner.open_sequence()
        for count in (1, 2, 3, 5):
            runner.step([SequenceWork(sequence, TOKENS[:count], 1)])
        assert tracemalloc.get_traced_memory()[0] - loaded < 0.5 * matrices
        del runner, sequence, model
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 0.5 * matrices
    finally:
        tracemalloc.stop()


def test_exact_takes_the_references(on_ggml, path, monkeypatch):
    monkeypatch.setenv("VKBACKEND_CPU", "exact")
    assert type(ModelRunner(load(path), context_length=64).executor) is NumpyExecutor

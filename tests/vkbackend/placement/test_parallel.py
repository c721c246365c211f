"""The number of sequences that a loaded model runs together, and the size of their cache."""

import logging
import threading
from types import SimpleNamespace

import pytest
from tiny_gguf import HEAD_DIM, NUM_KV_HEADS, write_tiny_gguf

from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.request import Finished, GenerationRequest, SamplingOptions
from vkbackend.engine.runner import PAGE_SIZE, ModelRunner, step_limits
from vkbackend.errors import OutOfMemory
from vkbackend.graph.cache_layout import CacheLayout
from vkbackend.graph.scratch import scratch_bytes
from vkbackend.loading import load
from vkbackend.server.loading.engine_loader import EngineLoader
from vkbackend.server.wire.options import Options

PAGE_BYTES = 2 * 2 * PAGE_SIZE * NUM_KV_HEADS * HEAD_DIM * 2  # keys and values of two layers, f16


@pytest.mark.parametrize("text, expected", [("3", 3), ("", 1), ("0", 1)])
def test_num_parallel_says_how_many_run_together(tmp_path, monkeypatch, text, expected):
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", text)
    monkeypatch.delenv("OLLAMA_VULKAN", raising=False)
    stored = SimpleNamespace(name="tiny:latest", gguf_path=write_tiny_gguf(tmp_path / "tiny.gguf"), adapter_paths=[])
    result = EngineLoader().load(stored, Options.defaults().update({"num_ctx": 64}))
    widths, submit = [], result.engine.runner.submit
    result.engine.runner.submit = lambda work: (widths.append(len(work)), submit(work))
    ended = threading.Semaphore(0)

    def listener(event):
        if isinstance(event, Finished):
            ended.release()

    for index in range(5):
        prompt = result.tokenizer.encode(f"{index} and the")
        result.engine.submit(
            GenerationRequest(prompt, SamplingOptions(seed=index, logit_bias={2: -1000.0}), num_predict=20), listener
        )
    for _ in range(5):
        assert ended.acquire(timeout=60)
    assert max(widths) == expected
    assert result.engine.runner.pages.num_pages == expected * 64 // PAGE_SIZE
    result.close()


def test_a_device_with_little_memory_gets_a_smaller_cache(tmp_path, device, monkeypatch, caplog):
    """With pages for 1.5 sequences instead of four, sequences share them; with less than one, loading fails."""
    model = load(write_tiny_gguf(tmp_path / "tiny.gguf"), device)
    (whole,) = model.all_parts
    limits = step_limits(model.config.vocab_size, 4 * PAGE_SIZE, 4)
    layout = CacheLayout.of(
        model.config, context_length=4 * PAGE_SIZE, num_sequences=4, kind="f16", step_tokens=128, page_size=PAGE_SIZE
    )
    scratch = scratch_bytes(whole.layers, whole.span, layout, limits, model.config, on_device=True)
    monkeypatch.setattr(device, "free_memory", lambda needed=0: scratch + 6 * PAGE_BYTES + 9)
    with caplog.at_level(logging.WARNING):
        runner = ModelRunner(model, context_length=4 * PAGE_SIZE, max_sequences=4)
    assert runner.pages.num_pages == 6 and runner.storage.num_bytes == 6 * PAGE_BYTES
    assert "room for a KV cache of 192 tokens, but 4 sequences of 128 need more" in caplog.text
    first, second = runner.open_sequence(), runner.open_sequence()
    runner.step([SequenceWork(first, [5] * 4 * PAGE_SIZE)])
    assert runner.has_room({second: 2 * PAGE_SIZE}) and not runner.has_room({second: 2 * PAGE_SIZE + 1})
    with pytest.raises(OutOfMemory, match="the KV cache is full: 3 pages of 32 tokens needed, 2 of 6 not in use"):
        runner.step([SequenceWork(second, [5] * (2 * PAGE_SIZE + 1))])
    with pytest.raises(OutOfMemory, match="the KV cache needs .* smaller num_ctx"):
        ModelRunner(model, context_length=7 * PAGE_SIZE, max_sequences=4)

"""Environment variables as users write them: what cannot be used is said once and counts as unset."""

import logging

import pytest
from fake_runner import FakeRunner, FakeTokenizer
from tiny_gguf import write_tiny_gguf

from vkbackend import settings
from vkbackend.engine.engine import Engine
from vkbackend.engine.opening import open_engine
from vkbackend.engine.sequence import GenerationRequest
from vkbackend.errors import RequestError


@pytest.fixture(autouse=True)
def warned_of_nothing(monkeypatch):
    monkeypatch.setattr(settings, "_warned", set())


@pytest.mark.parametrize("name, text, value", [
    ("OLLAMA_NUM_PARALLEL", "3", 3), ("OLLAMA_NUM_PARALLEL", "0", 1), ("OLLAMA_NUM_PARALLEL", " '2' ", 2), ("OLLAMA_NUM_PARALLEL", "", 1),
    ("OLLAMA_CONTEXT_LENGTH", "8192", 8192), ("OLLAMA_CONTEXT_LENGTH", "0", 4096), ("OLLAMA_MAX_QUEUE", "0", 0),
    ("OLLAMA_KV_CACHE_TYPE", "F16", "f16"), ("OLLAMA_KV_CACHE_TYPE", "F32", "f32"), ("OLLAMA_KV_CACHE_TYPE", '"f32"', "f32"),
    ("OLLAMA_VULKAN", '"1"', True), ("OLLAMA_VULKAN", "False", False), ("OLLAMA_VULKAN", "''", False)])
def test_what_can_be_used_is(monkeypatch, caplog, name, text, value):
    monkeypatch.setenv(name, text)
    assert settings.get(name) == value and not caplog.records


@pytest.mark.parametrize("name, text, default", [
    ("OLLAMA_NUM_PARALLEL", "-1", 1), ("OLLAMA_NUM_PARALLEL", "many", 1), ("OLLAMA_CONTEXT_LENGTH", "-7", 4096), ("OLLAMA_CONTEXT_LENGTH", "4k", 4096),
    ("OLLAMA_CONTEXT_LENGTH", "1.5", 4096), ("OLLAMA_MAX_QUEUE", "-1", 512), ("OLLAMA_KV_CACHE_TYPE", "q8_0", "f16"), ("OLLAMA_KV_CACHE_TYPE", "x", "f16")])
def test_what_cannot_be_used_is_said_once_and_counts_as_unset(monkeypatch, caplog, name, text, default):
    monkeypatch.setenv(name, text)
    with caplog.at_level(logging.WARNING):
        assert [settings.get(name) for _ in range(3)] == [default] * 3
    assert len(caplog.records) == 1
    assert all(part in caplog.text for part in (f"{name}={text}", f"{default} is taken"))


def test_a_model_answers_whatever_the_environment_says(monkeypatch, tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    for name, text in (("OLLAMA_NUM_PARALLEL", "0"), ("OLLAMA_CONTEXT_LENGTH", "-7"), ("OLLAMA_KV_CACHE_TYPE", "q8_0")):
        monkeypatch.setenv(name, text)
    opened = open_engine(path, num_gpu=0)
    try:
        assert list(opened.engine.generate(GenerationRequest([3, 4, 5], num_predict=2)))[-1].tokens > 0
        assert opened.context_length == 512 and opened.engine.runner.max_sequences == 1  # what it was trained for
    finally:
        opened.close()


def test_an_engine_without_room_for_a_sequence_is_not_made():
    tokenizer = FakeTokenizer()
    runner = FakeRunner(tokenizer, replies=[["a"]])
    runner.max_sequences = 0
    with pytest.raises(RequestError, match="room for 0 sequences"):
        Engine(runner, tokenizer)

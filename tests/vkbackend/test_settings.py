"""Environment variables as users write them: an invalid value is logged once and counts as unset."""

import errno
import logging
from pathlib import Path

import pytest
import recorded
from fake_runner import FakeRunner, FakeTokenizer
from tiny_gguf import write_tiny_gguf

from vkbackend import settings
from vkbackend.engine.engine import Engine
from vkbackend.engine.request import GenerationRequest
from vkbackend.errors import RequestError
from vkbackend.placement.opening import open_engine
from vkbackend.server.http import access, address
from vkbackend.server.loading import loaded_models


@pytest.fixture(autouse=True)
def warned_of_nothing(monkeypatch):
    monkeypatch.setattr(settings, "_warned", set())


def _host():
    found = address.parse(settings.text("OLLAMA_HOST"))
    return {"host": found.host_port, "path": found.path, "scheme": found.scheme, "url": found.url}


RECORDED = {  # kind of a recorded vector -> what it records
    "host": _host,
    "allowed_origins": access.allowed_origins,
    "keep_alive_ns": loaded_models.default_keep_alive,
    "load_timeout_ns": loaded_models.load_timeout,
    "context_length": lambda: settings.get("OLLAMA_CONTEXT_LENGTH"),
    "num_parallel": lambda: settings.get("OLLAMA_NUM_PARALLEL"),
    "max_loaded_models": lambda: settings.get("OLLAMA_MAX_LOADED_MODELS"),
    "max_queue": lambda: settings.get("OLLAMA_MAX_QUEUE"),
    "gpu_overhead": lambda: settings.get("OLLAMA_GPU_OVERHEAD"),
    "kv_cache_type": lambda: settings.text("OLLAMA_KV_CACHE_TYPE"),
    "llm_library": lambda: settings.get("OLLAMA_LLM_LIBRARY"),
    "visible_devices_vulkan": lambda: settings.get("GGML_VK_VISIBLE_DEVICES"),
    "flash_attention_default_false": lambda: (
        bool(settings.text("OLLAMA_FLASH_ATTENTION")) and settings.get("OLLAMA_FLASH_ATTENTION")
    ),
    "flash_attention_default_true": lambda: settings.get("OLLAMA_FLASH_ATTENTION"),
    "vulkan_enabled": lambda: settings.get("OLLAMA_VULKAN"),
    "sched_spread": lambda: settings.get("OLLAMA_SCHED_SPREAD"),
    "noprune": lambda: settings.get("OLLAMA_NOPRUNE"),
    "nohistory": lambda: settings.get("OLLAMA_NOHISTORY"),
    "multiuser_cache": lambda: settings.get("OLLAMA_MULTIUSER_CACHE"),
    "new_engine": lambda: settings.get("OLLAMA_NEW_ENGINE"),
    "log_level": lambda: settings.get("OLLAMA_DEBUG"),
    "models_dir": settings.models_folder,
    "remotes": lambda: settings.get("OLLAMA_REMOTES"),
}


def test_every_variable_as_recorded(monkeypatch):
    vectors = recorded.load("env_config")
    names = {name for vector in vectors for name in vector["env"]}

    def got_and_wanted(vector):
        for name in names:
            monkeypatch.delenv(name, raising=False)
        for name, text in ({"HOME": "/home/someone"} | vector["env"]).items():
            monkeypatch.setenv(name, text)
        wanted = vector["output"]
        if vector["kind"] == "models_dir":
            wanted = Path(wanted)
        if vector["kind"] == "log_level":
            wanted = wanted["level"]
        return RECORDED[vector["kind"]](), wanted

    recorded.check(vectors, got_and_wanted)


@pytest.mark.parametrize(
    "text, level", [("", logging.INFO), ("1", logging.DEBUG), ("-1", logging.WARNING), ("2", 1), ("no", logging.INFO)]
)
def test_level_of_the_log(monkeypatch, text, level):
    monkeypatch.setenv("OLLAMA_DEBUG", text)
    assert settings.log_level() == level


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("OLLAMA_NUM_PARALLEL", "3", 3),
        ("OLLAMA_NUM_PARALLEL", "0", 1),
        ("OLLAMA_NUM_PARALLEL", " '2' ", 2),
        ("OLLAMA_NUM_PARALLEL", "", 1),
        ("OLLAMA_CONTEXT_LENGTH", "8192", 8192),
        ("OLLAMA_CONTEXT_LENGTH", "0", 4096),
        ("OLLAMA_MAX_QUEUE", "0", 0),
        ("OLLAMA_KV_CACHE_TYPE", "F16", "f16"),
        ("OLLAMA_KV_CACHE_TYPE", "F32", "f32"),
        ("OLLAMA_KV_CACHE_TYPE", "Q8_0", "q8_0"),
        ("OLLAMA_KV_CACHE_TYPE", '"f32"', "f32"),
        ("OLLAMA_VULKAN", '"1"', True),
        ("OLLAMA_VULKAN", "False", False),
        ("OLLAMA_VULKAN", "''", False),
    ],
)
def test_what_can_be_used_is(monkeypatch, caplog, name, text, value):
    monkeypatch.setenv(name, text)
    assert settings.get(name) == value and not caplog.records


@pytest.mark.parametrize(
    "name, text, default",
    [
        ("OLLAMA_NUM_PARALLEL", "-1", 1),
        ("OLLAMA_NUM_PARALLEL", "many", 1),
        ("OLLAMA_CONTEXT_LENGTH", "-7", 4096),
        ("OLLAMA_CONTEXT_LENGTH", "4k", 4096),
        ("OLLAMA_CONTEXT_LENGTH", "1.5", 4096),
        ("OLLAMA_MAX_QUEUE", "-1", 512),
        ("OLLAMA_KV_CACHE_TYPE", "q4_0", "f16"),
        ("OLLAMA_KV_CACHE_TYPE", "x", "f16"),
    ],
)
def test_an_invalid_value_is_logged_once_and_counts_as_unset(monkeypatch, caplog, name, text, default):
    monkeypatch.setenv(name, text)
    with caplog.at_level(logging.WARNING):
        assert [settings.get(name) for _ in range(3)] == [default] * 3
    assert len(caplog.records) == 1
    assert all(part in caplog.text for part in (f"{name}={text}", f"using {default}"))


def test_a_model_answers_whatever_the_environment_says(monkeypatch, tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    for name, text in (("OLLAMA_NUM_PARALLEL", "0"), ("OLLAMA_CONTEXT_LENGTH", "-7"), ("OLLAMA_KV_CACHE_TYPE", "q4_0")):
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
    with pytest.raises(RequestError, match="allows 0 sequences"):
        Engine(runner, tokenizer)


@pytest.mark.parametrize("value", ["FILE", "FILE/below", "/proc/nothing", "x" * 5000, "~nosuchuser/cache"])
def test_a_cache_folder_that_cannot_be_made_is_replaced_and_warned_of_once(tmp_path, monkeypatch, caplog, value):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(settings, "_warned", set())
    monkeypatch.setenv("VKBACKEND_CACHE", value.replace("FILE", str(tmp_path / "file")))
    with caplog.at_level(logging.WARNING):
        folder = settings.cache_folder()
        assert settings.cache_folder() == folder and folder.is_dir()
    assert caplog.text.count("cache folder cannot be used") == 1


def test_a_cache_without_a_home_folder(monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VKBACKEND_CACHE", raising=False)
    monkeypatch.setattr(settings.Path, "home", none)
    assert settings.cache_folder().is_dir()


def test_a_damaged_file_of_the_cache_is_not_used(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(settings, "_warned", set())
    path = tmp_path / "kept.bin"
    settings.write_checked(path, b"kernels")
    good = path.read_bytes()
    assert settings.read_checked(path) == b"kernels"
    for damaged in (good[:-1], good + b"x", good[:-3] + b"X" + good[-2:], b"X" + good[1:], b""):
        path.write_bytes(damaged)
        assert settings.read_checked(path) is None
    assert caplog.text.count("is damaged") == 1
    for other in (tmp_path / "missing", path / "below", tmp_path):
        assert settings.read_checked(other) is None


def test_a_full_disk_leaves_no_temporary_file(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(settings.os, "replace", full)
    monkeypatch.setattr(settings, "_warned", set())
    for name in ("a", "b"):
        settings.write_whole(tmp_path / name, b"data")
    assert not list(tmp_path.iterdir()) and caplog.text.count("No space left on device") == 1

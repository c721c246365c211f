"""Fixtures of the tests in this folder."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from live_server import free_port
from tiny_gguf import write_tiny_gguf

from vkbackend import settings
from vkbackend.server.cli.main import cli


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty store and nobody listening. -> run(*arguments, input) -> click's result."""
    caches = settings.cache_folder()
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("VKBACKEND_CACHE", str(_cache(tmp_path, caches)))
    monkeypatch.delenv("OLLAMA_VULKAN", raising=False)
    return lambda *arguments, input="": CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input)


def _cache(tmp_path, caches) -> Path:
    """A cache folder without remembered digests, but with the compiled shaders."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for name in ("spirv", "pipelines"):
        if (caches / name).is_dir():
            (folder / name).symlink_to(caches / name)
    return folder

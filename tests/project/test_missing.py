"""What lies outside of the repository: a clone without it skips by name, CI=1 fails, and nothing is passed over in
another way.
"""

import importlib.util
import re
from pathlib import Path

import cli_world
import llama_cpp_tokens
import pseudo_terminals
import pytest
import shared_data
import starter_models
import vulkan_drivers
from places import TESTS

from vkbackend.errors import NoDevice


def no_recordings(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_data, "SHARED", tmp_path / "shared")
    shared_data.shared("vectors")


def no_model(monkeypatch, tmp_path):
    monkeypatch.setattr(starter_models.settings, "cache_folder", lambda: tmp_path)
    starter_models.model_path("smollm2")


def no_driver(monkeypatch, tmp_path):
    vulkan_drivers.Driver("lavapipe", None, "Debian: apt-get install mesa-vulkan-drivers").require()


def no_llama_cpp(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    llama_cpp_tokens.llama_cpp({})


def no_device(monkeypatch, tmp_path):
    def none():
        raise NoDevice("no Vulkan driver is installed")

    monkeypatch.setattr(cli_world, "list_devices", none)
    cli_world.some_device()


def no_terminal(monkeypatch, tmp_path):
    def none():
        raise OSError("out of pty devices")

    monkeypatch.setattr(pseudo_terminals.pty, "openpty", none)
    pseudo_terminals.opened()


WITHOUT = [
    (no_recordings, "shared/vectors.* beside the repository"),
    (no_model, "SmolLM2.*setup.sh --tests"),
    (no_driver, "lavapipe is not installed"),
    (no_llama_cpp, "xllamacpp is not installed"),
    (no_device, "no Vulkan driver"),
    (no_terminal, "no pseudo-terminals .out of pty devices"),
]


@pytest.mark.parametrize("without, said", WITHOUT, ids=[without.__name__ for without, _ in WITHOUT])
@pytest.mark.parametrize("ci, ends", [("1", pytest.fail.Exception), ("", pytest.skip.Exception)], ids=["CI", "a clone"])
def test_what_is_missing_fails_in_ci_and_is_skipped_elsewhere(monkeypatch, tmp_path, without, said, ci, ends):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(ends, match=said):
        without(monkeypatch, tmp_path)


def test_nothing_is_skipped_in_another_way():
    """`vulkan_drivers.missing` is where CI is asked; a skip beside it would pass there in silence."""
    by_hand = re.compile(r"\b(?:pytest\.skip\(|importorskip|mark\.(?:skip|xfail)|unittest(?!\.mock))")
    found = {
        path.name
        for path in TESTS.rglob("*.py")
        if path.name != Path(__file__).name and by_hand.search(path.read_text())
    }
    assert found == {"vulkan_drivers.py"}

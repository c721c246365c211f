"""Synchronization validation: whole generations without a message on two drivers under two versions of the layer,
and a hazard seen for every derived barrier that is left out.

Real models; where the cache has none, tiny ones of the same architecture run instead, which the test's name says,
except in CI.
"""

from pathlib import Path

import pytest
from starter_models import FILES, model_path
from tiny_gguf import ARCHITECTURES, write_tiny_gguf
from validation_layers import CHROMIUM, DEBIAN, LAYERS, messages
from vulkan_drivers import DRIVERS, finish_all, in_ci, run_on, start

from vkbackend import settings

REAL = {"llama": "smollm2", "gemma3": "gemma3"}
MODEL_KINDS = {
    name: "real" if in_ci() or (settings.cache_folder() / "models" / FILES[REAL[name]]).exists() else "tiny"
    for name in ARCHITECTURES
}
TOKENS = 64


def model(architecture: str, folder: Path) -> Path:
    if MODEL_KINDS[architecture] == "real":
        return model_path(REAL[architecture])
    return write_tiny_gguf(folder / f"{architecture}.gguf", architecture, "q4_k", num_layers=7)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda name: f"{name}-{MODEL_KINDS[name]}")
def test_whole_generation_gives_no_message(tmp_path, architecture, layer):
    no_message(tmp_path, layer, model(architecture, tmp_path), TOKENS)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_formats_that_the_models_lack_give_no_message(tmp_path, monkeypatch, layer):
    formats = {"blk.0.attn_q": "q3_k", "blk.0.ffn_down": "q3_k", "blk.1.attn_v": "bf16", "output": "bf16"}
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "q2_k", formats=formats)
    monkeypatch.setenv("VKBACKEND_AUTOTUNE", "0")  # kernels taken by rule: each compiled is a second here
    no_message(tmp_path, layer, path, 16, "--kv-type", "q8_0")


def no_message(folder: Path, layer, path: Path, tokens: int, *arguments: str) -> None:
    """All drivers at the same time; the layer must have been there, the tokens must be as many as asked for."""
    drivers = [driver for driver in DRIVERS if driver.manifest]
    environments = [driver.environment | layer.environment(folder / driver.name) for driver in drivers]
    results = finish_all(
        [
            start(Path("run_generation.py"), path, "--tokens", tokens, *arguments, environment=environment)
            for environment in environments
        ]
    )
    for driver, result in zip(drivers, results):
        assert layer.is_among(result["layers"]), result["layers"]
        assert len(result["tokens"]) == tokens
        assert messages(folder / driver.name) == "", driver.name
    for driver in DRIVERS:
        driver.require()  # one that is missing is said to be, once the others have passed


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_upload_ring_gives_no_message(tmp_path, driver, layer):
    """A device with memory of its own: weights by the ring, results by copies."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "f32")
    result = run_on(
        driver,
        Path("run_generation.py"),
        path,
        "--tokens",
        8,
        "--discrete",
        environment=layer.environment(tmp_path / "layer"),
    )
    assert layer.is_among(result["layers"])
    assert messages(tmp_path / "layer") == ""


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("ring", [[], ["--discrete"]], ids=["in place", "ring"])
def test_mistake_before_loading_is_still_reported_at_the_end(tmp_path, driver, layer, ring):
    """No message is lost between the device's opening and the end: a layer empties its file whenever an instance is
    made.
    """
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "f32")
    run_on(
        driver,
        Path("run_generation.py"),
        path,
        "--tokens",
        1,
        "--plant",
        *ring,
        environment=layer.environment(tmp_path / "layer"),
    )
    assert "VUID-vkCmdPipelineBarrier-srcAccessMask-02815" in messages(tmp_path / "layer")


@pytest.mark.parametrize("seconds", [0.7, 8], ids=["ends in time", "never seems to end"])
def test_nothing_is_destroyed_while_the_device_uses_it(tmp_path, driver, seconds):
    """A step that is given up: what it uses is waited for, and where that takes too long, left alone."""
    result = run_on(driver, Path("give_up_on_step.py"), seconds, environment=CHROMIUM.environment(tmp_path / "layer"))
    assert result["given_up"] < 0.6 * seconds
    assert messages(tmp_path / "layer") == ""
    assert result["let_go"] < 6


def without_each_barrier(tmp_path, driver, layer) -> list[dict]:
    paths = [write_tiny_gguf(tmp_path / f"{name}.gguf", name, "q4_0") for name in ARCHITECTURES]
    result = run_on(
        driver,
        Path("leave_out_barriers.py"),
        tmp_path / "layer" / "messages.txt",
        *paths,
        environment=layer.environment(tmp_path / "layer"),
    )
    assert layer.is_among(result["layers"])
    for step in result["steps"]:
        assert step["none"] == "", step["model"]
        assert (
            len(step["left_out"]) > 13
        )  # four between the five dispatches of each layer of a decode step, and those around them
    return result["steps"]


def test_no_barrier_can_be_left_out(tmp_path, driver):
    """Decode and prefill of both architectures: without any single derived barrier the newer layer reports a hazard."""
    for step in without_each_barrier(tmp_path, driver, CHROMIUM):
        blind = [each for each in step["left_out"] if not each["hazards"]]
        assert not blind, step["model"]


def test_older_layer_sees_each_barrier_too(tmp_path, driver):
    """Debian's layer misses write after write, so kernels of a model's step do not change in place what another one
    wrote.
    """
    for step in without_each_barrier(tmp_path, driver, DEBIAN):
        assert [each for each in step["left_out"] if not each["hazards"]] == [], step["model"]

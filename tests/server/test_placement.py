"""Where a real server puts models: on the device, on the CPU, on both; what `ps` and the log say; several models at
once.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import urllib.request
from dataclasses import replace

import pytest
from create_requests import call, create, upload
from live_server import LiveServer
from places import ROOT
from starter_models import model_path
from tiny_gguf import write_tiny_gguf
from vulkan_drivers import missing

from vkbackend.device.host_memory import available_host_memory
from vkbackend.errors import DeviceError, OutOfMemory, RequestError
from vkbackend.placement import memory_plan, placing
from vkbackend.placement.opening import open_engine

MIB = 1 << 20


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "llama", "q8_0", num_layers=4)


@pytest.fixture(scope="module")
def server(tmp_path_factory, device):
    with LiveServer(
        tmp_path_factory.mktemp("models"), environment={"OLLAMA_VULKAN": "1", "OLLAMA_MAX_LOADED_MODELS": "2"}
    ) as server:
        folder = tmp_path_factory.mktemp("others")
        for seed, name in enumerate("abc"):  # of the same weights, they would be one model under three names
            path = write_tiny_gguf(folder / f"{seed}.gguf", "llama", "q8_0", num_layers=4, seed=seed)
            assert create(server, name, upload(server, path.read_bytes()))[0] == 200
        yield server


def generate(server, name, num_predict=4, **options):
    status, found = call(
        server,
        "/api/generate",
        {
            "model": name,
            "prompt": "ab",
            "stream": False,
            "raw": True,
            "keep_alive": "10m",
            "options": {"num_predict": num_predict, "temperature": 0, "num_ctx": 128, **options},
        },
    )
    assert status == 200, found
    return found


def running(server) -> dict:
    with urllib.request.urlopen(server.url + "/api/ps", timeout=20) as answer:
        return {model["name"].removesuffix(":latest"): model for model in json.load(answer)["models"]}


def processor(server, name) -> str:
    """The PROCESSOR column of `vkbackend ps`."""
    listed = subprocess.run(
        [sys.executable, "-m", "vkbackend", "ps"],
        cwd=ROOT,
        env=os.environ | {"OLLAMA_HOST": server.url},
        capture_output=True,
        text=True,
    )
    header, *lines = listed.stdout.splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return line[header.index("PROCESSOR") : header.index("CONTEXT")].strip()


def test_ps_shows_where_a_model_runs(server):
    on_device = generate(server, "a")
    shown = running(server)["a"]
    assert shown["size"] == shown["size_vram"] > 0 and processor(server, "a") == "100% GPU"
    split = generate(server, "a", num_gpu=2)
    shown = running(server)["a"]
    assert 0 < shown["size_vram"] < shown["size"]
    share = int((shown["size"] - shown["size_vram"]) / shown["size"] * 100 + 0.5)
    assert processor(server, "a") == f"{share}%/{100 - share}% CPU/GPU"
    on_cpu = generate(server, "a", num_gpu=0)
    assert running(server)["a"]["size_vram"] == 0 and processor(server, "a") == "100% CPU"
    assert 20 < 100 - share < 80  # two of four layers; the embedding and the output are the CPU's
    assert on_device["response"] == split["response"] == on_cpu["response"]


def test_several_models_answer_at_the_same_time_and_one_gives_way(server):
    wanted = {name: generate(server, name)["response"] for name in "ab"}
    assert set(running(server)) == {"a", "b"}
    answers = {name: [] for name in "ab"}

    def ask(name):
        answers[name].extend(generate(server, name)["response"] for _ in range(5))

    threads = [threading.Thread(target=ask, args=name) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {name: [text] * 5 for name, text in wanted.items()}
    generate(server, "c")
    assert len(running(server)) == 2 and "c" in running(server)
    assert call(server, "/api/generate", {"model": "c", "keep_alive": 0, "stream": False})[1]["done_reason"] == "unload"
    assert "c" not in running(server)


def test_a_loaded_model_answers_while_a_large_one_loads(tmp_path, gguf):
    path = model_path("gemma3")
    with LiveServer(tmp_path / "models", environment={"OLLAMA_VULKAN": "1"}) as server:
        create(server, "small", upload(server, gguf.read_bytes()))
        create(server, "large", upload(server, path.read_bytes()))
        generate(server, "small")
        loading = threading.Thread(target=generate, args=(server, "large", 1), kwargs={"num_gpu": 0})
        loading.start()
        answers = 0
        while "large" not in running(server) and loading.is_alive():
            generate(server, "small", 1)
            answers += 1
        loading.join()
        assert answers > 3 and set(running(server)) == {"small", "large"}


def test_one_gives_way_where_device_memory_does_not_hold_two(tmp_path, device):
    """Real memory: one model's memory is free for the next only after it is unloaded. Neither is split."""
    total = device.info.memory_total
    if available_host_memory() < total + 512 * MIB:
        missing("less memory is available than the device has: what is free there changes with other programs")
    paths = [write_tiny_gguf(tmp_path / f"{seed}.gguf", "llama", "f32", num_layers=24, seed=seed) for seed in (0, 1)]
    size = paths[0].stat().st_size
    environment = {"OLLAMA_VULKAN": "1", "OLLAMA_GPU_OVERHEAD": str(total - 3 * size // 2 - memory_plan.DRIVER_BYTES)}
    with LiveServer(tmp_path / "models", environment=environment) as server:
        for name, path in zip(("one", "two"), paths):
            create(server, name, upload(server, path.read_bytes()))
            generate(server, name)
            assert {each: model["size"] - model["size_vram"] for each, model in running(server).items()} == {name: 0}


@pytest.fixture
def on_device(device, monkeypatch):
    """This process runs models on the default device, with no more memory there than a test allows."""
    monkeypatch.setenv("OLLAMA_VULKAN", "1")

    def leaves(num_bytes):
        monkeypatch.setattr(
            placing.selection.Device, "free_memory", lambda self, wanted=0: max(0, num_bytes - self.allocated_bytes)
        )
        monkeypatch.setattr(placing.selection, "_listed", [])
        usable = placing.usable
        monkeypatch.setattr(placing, "usable", lambda: [replace(gpu, free=num_bytes) for gpu in usable()])
        monkeypatch.setattr(memory_plan, "DRIVER_BYTES", 0)  # more than all of a tiny model

    return leaves


def opened_places(gguf, **arguments):
    opened = open_engine(gguf, context_length=128, **arguments)
    opened.close()
    return opened.placement


def test_as_many_layers_as_fit_and_the_log_says_why(on_device, gguf, caplog):
    on_device(4 * MIB)
    with caplog.at_level(logging.INFO):
        places = opened_places(gguf)
    assert places[0][0] == "CPU" and places[1][0] != "CPU" and sum(layers for _, layers in places) == 5
    assert (
        "placing " in caplog.text
        and "has 4 MiB free" in caplog.text
        and "as many as fit; layers on the CPU are slower" in caplog.text
    )
    with pytest.raises(OutOfMemory, match="unable to load full model on GPU"):
        open_engine(gguf, context_length=128, whole=True)
    on_device(MIB // 2)
    assert opened_places(gguf) == (("CPU", 5),)


def test_fewer_sequences_come_before_fewer_layers(on_device, gguf, monkeypatch, caplog):
    """A cache for sixteen sequences would push layers off the device; they share a smaller one instead."""
    on_device(5 * MIB)
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "16")
    with caplog.at_level(logging.WARNING):
        opened = open_engine(gguf, context_length=128)
    opened.close()
    assert len(opened.placement) == 1 and opened.placement[0][0] != "CPU"
    assert "has room for a KV cache of" in caplog.text and "but 16 sequences of 128 need more" in caplog.text
    on_device(64 * MIB)
    opened = open_engine(gguf, context_length=128, num_gpu=2)  # room enough for both: no fewer sequences than asked for
    pages = opened.engine.runner.pages.num_pages
    opened.close()
    assert len(opened.placement) == 3 and pages == 16 * 4


def test_overhead_is_kept_free(on_device, gguf, monkeypatch):
    on_device(64 * MIB)
    assert len(opened_places(gguf)) == 1
    monkeypatch.setenv("OLLAMA_GPU_OVERHEAD", str(60 * MIB))
    assert len(opened_places(gguf)) > 1


def test_a_cache_leaves_the_overhead_free(on_device, gguf, monkeypatch):
    """Sixteen sequences get no more of the remaining memory than the overhead leaves."""
    on_device(64 * MIB)
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "16")
    monkeypatch.setenv("OLLAMA_GPU_OVERHEAD", str(59 * MIB))
    opened = open_engine(gguf, context_length=128)
    pages = opened.engine.runner.pages.num_pages
    opened.close()
    assert len(opened.placement) == 1 and 4 <= pages < 64


def test_what_fits_by_count_and_not_in_truth_is_tried_with_less(on_device, gguf, monkeypatch, caplog):
    """A driver that reports more memory than it has."""
    on_device(5 * MIB)
    load_whole = placing.load

    def refuse(file, device, *arguments, **named):
        if device is not None:
            raise OutOfMemory("the driver has no more")
        return load_whole(file, device, *arguments, **named)

    monkeypatch.setattr(placing, "load", refuse)
    with caplog.at_level(logging.INFO):
        places = opened_places(gguf)
    assert len(places) > 1 and "the driver has no more" in caplog.text
    with pytest.raises(OutOfMemory, match="memory layout cannot be allocated with num_gpu = 5"):
        open_engine(gguf, context_length=128, num_gpu=5)


def test_a_cache_that_no_device_could_bind_is_said(on_device, gguf, monkeypatch):
    on_device(64 * MIB)
    usable = placing.usable
    monkeypatch.setattr(placing, "usable", lambda: [replace(gpu, largest_binding=1000) for gpu in usable()])
    with pytest.raises(
        RequestError, match="the KV cache of one layer needs .* binds at most 1000: use a smaller num_ctx"
    ):
        open_engine(gguf, context_length=128)


def test_a_main_gpu_that_is_not_there_is_said(on_device, gguf, caplog):
    on_device(64 * MIB)
    with caplog.at_level(logging.WARNING):
        assert len(opened_places(gguf, main_gpu=7)) == 1
    assert "ignoring main_gpu = 7: there are the devices 0" in caplog.text


def test_a_device_that_cannot_be_opened_is_done_without(on_device, gguf, monkeypatch):
    on_device(64 * MIB)

    def refuses(uuid):
        raise DeviceError("vkCreateDevice gave ErrorInitializationFailed")

    monkeypatch.setattr(placing.selection, "opened", refuses)
    assert opened_places(gguf) == (("CPU", 5),)

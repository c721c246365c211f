"""The memory plan beside what processes take, and its rules where memory is short."""

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from places import SUPPORT
from starter_models import model_path
from tiny_gguf import write_tiny_gguf

from vkbackend import loading
from vkbackend.engine.runner import PAGE_SIZE, step_limits
from vkbackend.errors import OutOfMemory
from vkbackend.gguf.reader import GGUFFile
from vkbackend.graph.builder import Graph
from vkbackend.graph.cache_layout import CacheLayout
from vkbackend.graph.parts import LayerSpan
from vkbackend.placement import memory_plan, settling
from vkbackend.placement.gpus import Gpu
from vkbackend.placement.memory_plan import Place, plan_memory
from vkbackend.placement.opening import open_engine, plan_engine

MIB = 1 << 20
GIB = 1 << 30
GPU = Gpu("a", name="a GPU", free=GIB, total=GIB, largest_binding=128 * MIB, lanes=8)
INTEGRATED = replace(GPU, is_integrated=True)


def planned_and_taken(num_gpu: int, environment: dict) -> tuple[dict, dict]:
    """Bytes of the plan by kind, and private bytes of a process that carries it out."""
    command = [sys.executable, SUPPORT / "measure_memory.py", model_path("smollm2"), str(num_gpu), "8192"]
    whole = os.environ | {"VKBACKEND_AUTOTUNE": "0"} | environment
    done = subprocess.run(command, env=whole, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["places"]) == (2 if num_gpu > 0 else 1)
    return found["planned"], found["taken"]


@pytest.mark.parametrize(
    "num_gpu, discrete, kv_type",
    [(0, "", "f16"), (0, "", "q8_0"), (-1, "", "f16"), (-1, "1", "q8_0"), (12, "", "f16")],
    ids=["CPU", "CPU, q8_0", "device", "discrete device, q8_0", "device and CPU"],
)
def test_a_process_takes_what_was_planned(device, num_gpu, discrete, kv_type):
    """Private memory, mapped files aside, within 5% and 64 MiB. On a device that shares the host's memory no more: the
    kernel ends a process that takes more than was free.
    """
    settings = {"OLLAMA_VULKAN": "1", "VKBACKEND_FORCE_DISCRETE": discrete, "OLLAMA_KV_CACHE_TYPE": kv_type}
    planned, taken = planned_and_taken(num_gpu, settings)
    assert abs(planned["private"] - taken["peak"]) <= 0.05 * planned["private"] + 64 * MIB, (planned, taken)
    assert (planned["mapped"] > 0) == (num_gpu >= 0)
    if num_gpu < 0 and not discrete:
        assert taken["peak"] <= planned["private"]


def test_a_process_takes_what_was_planned_on_ggml(on_ggml):
    """The mapped file stands apart: nothing of it is expanded."""
    planned, taken = planned_and_taken(0, {})
    assert planned["weights"] < 0.15 * planned["mapped"]
    assert abs(planned["private"] - taken["peak"]) <= 0.05 * planned["private"] + 64 * MIB


@pytest.fixture
def gguf(tmp_path):
    return loading.read(write_tiny_gguf(tmp_path / "tiny.gguf", num_layers=4, context_length=1 << 20))


@pytest.fixture
def host_free(monkeypatch):
    """host_free(bytes) sets the free memory of the machine."""

    def say(num_bytes):
        monkeypatch.setattr(memory_plan, "available_host_memory", lambda: num_bytes)
        monkeypatch.setattr(memory_plan, "free_swap", lambda: 0)

    return say


def planned(file, places, context_length, num_sequences=1, kind="f16"):
    """places: (gpu or None, number of layers) in the order of the layers."""
    limits = step_limits(file.config.vocab_size, context_length, num_sequences)
    layout = CacheLayout.of(
        file.config,
        context_length=context_length,
        num_sequences=num_sequences,
        kind=kind,
        step_tokens=limits.max_tokens,
        page_size=PAGE_SIZE,
    )
    spans, first = {}, 0
    for gpu, count in places:
        spans[gpu] = (*spans.get(gpu, ()), LayerSpan(first, first + count, file.config.num_layers, False))
        first += count
    return plan_memory(file, [Place(gpu, held) for gpu, held in spans.items()], layout, limits)


@pytest.mark.parametrize("num_gpu", [0, -1])
def test_a_refusal_keeps_nothing_in_memory(gguf, monkeypatch, num_gpu):
    """Without waiting for a collection of garbage."""

    def kept() -> tuple[int, int]:
        """How many graphs and files there are."""
        found = gc.get_objects()
        return sum(isinstance(each, Graph) for each in found), sum(isinstance(each, GGUFFile) for each in found)

    for module in (memory_plan, settling):
        monkeypatch.setattr(module, "available_host_memory", lambda: GIB // 4)
        monkeypatch.setattr(module, "free_swap", lambda: 0)
    gc.collect()
    before = kept()
    gc.disable()
    try:
        assert plan_engine(gguf.path, context_length=1 << 19, num_gpu=num_gpu).problem is not None
        assert kept() == before
        with pytest.raises(OutOfMemory):
            open_engine(gguf.path, context_length=1 << 19, num_gpu=num_gpu)
        assert kept() == before
    finally:
        gc.enable()


PLACES = {
    "CPU": [(None, 5)],
    "integrated device": [(INTEGRATED, 5)],
    "device and CPU": [(None, 2), (GPU, 2), (None, 1)],
    "two devices": [(GPU, 2), (replace(GPU, id="b", name="another"), 3)],
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_a_cache_that_does_not_fit_is_refused_before_anything_is_loaded(gguf, host_free, places):
    """1 GiB for a sequence of 512 Ki tokens."""
    host_free(GIB // 4)
    small = [(gpu and replace(gpu, free=GIB // 5), count) for gpu, count in places]
    plan = planned(gguf, small, 1 << 19)
    on_host = any(gpu is None or gpu.is_integrated for gpu, _ in small)
    words = "model requires more system memory (" if on_host else "the KV cache needs "
    assert (plan.problem or "").startswith(words), plan.problem
    assert planned(gguf, small, 1 << 12).problem is None


def test_the_memory_of_an_integrated_device_is_the_hosts(gguf, host_free):
    host_free(340 * MIB)
    assert planned(gguf, [(None, 2), (GPU, 3)], 1 << 16).problem is None
    plan = planned(gguf, [(None, 2), (INTEGRATED, 3)], 1 << 16)
    assert plan.problem.startswith("model requires more system memory (")


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_fewer_pages_are_taken_where_not_all_sequences_fit(gguf, host_free, places):
    host_free(GIB // 4)
    small = [(gpu and replace(gpu, free=GIB // 4), count) for gpu, count in places]
    plan = planned(gguf, small, 1 << 14, num_sequences=16)
    assert plan.problem is None and 1 << 9 <= plan.layout.num_pages < 1 << 13
    assert all(place.fits for place in plan.places)
    on_host = [place.total for place, (gpu, _) in zip(plan.places, small) if gpu is None or gpu.is_integrated]
    assert sum(on_host) <= GIB // 4 * 15 / 16  # some of the host's memory is left: counts are not exact


@pytest.mark.parametrize("places", [PLACES["integrated device"], PLACES["device and CPU"], PLACES["two devices"]])
def test_no_cache_is_larger_than_a_binding(gguf, host_free, places):
    host_free(64 * GIB)
    narrow = [(gpu and replace(gpu, free=8 * GIB, largest_binding=32 * MIB), count) for gpu, count in places]
    plan = planned(gguf, narrow, 1 << 16, num_sequences=4)
    tensors = [plan.layout.layer_bytes(layer) // 2 for layer in range(4)]
    assert plan.problem is None and max(tensors) == 32 * MIB and plan.layout.num_pages == 2 << 11
    assert "binds at most 33554432" in planned(gguf, narrow, 1 << 18).problem


def test_the_cpu_path_dequantizes_only_what_the_rest_leaves_room_for(gguf, host_free):
    host_free(64 * GIB)
    plenty = planned(gguf, PLACES["CPU"], 1 << 17)
    assert plenty.copies_wanted < plenty.copy_budget
    (cpu,) = plenty.places
    host_free(
        (cpu.total - cpu.cache // 2 - plenty.copies_wanted // 2) * 16 // 15
    )  # the cache is in f32 if there is room
    scarce = planned(gguf, PLACES["CPU"], 1 << 17)
    assert scarce.problem is None and 0 < scarce.copy_budget < plenty.copies_wanted
    assert scarce.places[0].total <= scarce.places[0].free * 15 / 16


@pytest.mark.parametrize("kind, tokens_bytes", [("f16", 256), ("f32", 512), ("q8_0", 136)])
def test_a_cache_counts_in_the_type_that_it_takes(gguf, host_free, kind, tokens_bytes):
    """tokens_bytes: keys and values of a token of one layer, with scales."""
    host_free(GIB // 2)
    on_cpu, on_device = planned(gguf, [(None, 2), (GPU, 3)], 1 << 16, kind=kind).places
    assert on_device.cache == 2 * 2 * tokens_bytes << 16
    assert on_cpu.cache == on_device.cache  # too much for f32
    host_free(64 * GIB)
    on_cpu, _ = planned(gguf, [(None, 2), (GPU, 3)], 1 << 16, kind=kind).places
    assert on_cpu.cache == on_device.cache * (2 if kind == "f16" else 1)

"""Ollama's rules for devices, as recorded: groups, orders, comparisons."""

import recorded
from test_layout import gpu

from vkbackend.placement.gpus import (
    Comparison,
    Gpu,
    by_library,
    by_performance,
    compare,
    flash_attention_supported,
    is_preferred,
    minimum_memory,
    sorted_for_layout,
)


def named(gpus) -> list[str]:
    return [f"{each.library}:{each.id}" for each in gpus]


def test_groups_and_orders():
    def got_and_wanted(vector):
        gpus = [gpu(entry) for entry in vector["devices"]]
        got = ([named(group) for group in by_performance(gpus)], [named(group) for group in by_library(gpus)],
               named(sorted_for_layout(gpus)))
        return got, (vector["by_performance"] or [], vector["by_library"] or [], vector["sorted_for_layout"])

    recorded.check(recorded.load("gpu_devices", "grouping"), got_and_wanted)


def test_minimum_memory():
    recorded.check(recorded.load("gpu_devices", "minimum_memory"), lambda vector: (minimum_memory(vector["library"]), vector["bytes"]))


def test_flash_attention():
    def got_and_wanted(vector):
        gpus = [Gpu("0", entry["library"], entry["name"], compute=(entry["compute_major"], entry["compute_minor"]),
                    driver_major=entry["driver_major"]) for entry in vector["devices"]]
        return flash_attention_supported(gpus), vector["output"]

    recorded.check(recorded.load("gpu_devices", "flash_attention_supported"), got_and_wanted)


def test_one_device_listed_twice():
    def got_and_wanted(vector):
        one, other = (Gpu(vector[which]["id"], vector[which]["library"], pci_id=vector[which]["pci_id"]) for which in "ab")
        return (compare(one, other).value, is_preferred(one)), (vector["output"], vector["a_preferred"])

    recorded.check(recorded.load("gpu_devices", "compare"), got_and_wanted)


def test_a_device_of_two_libraries_is_a_duplicate():
    one, other = Gpu("0", "CUDA", pci_id="0000:01:00.0"), Gpu("1", "Vulkan", pci_id="0000:01:00.0")
    assert compare(one, other) is Comparison.DUPLICATE


def test_every_kind_is_tested():
    kinds = {vector["kind"] for vector in recorded.load("gpu_devices")}
    assert kinds == {"grouping", "minimum_memory", "flash_attention_supported", "compare"}

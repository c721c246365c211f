"""Ollama's recorded rules for devices: groups and orders. This backend has no rules for CUDA, ROCm and Metal."""

import recorded
from layout_vectors import gpu

from vkbackend.placement.gpus import by_library, by_performance, minimum_memory, sorted_for_layout


def named(gpus) -> list[str]:
    return [f"{each.library}:{each.id}" for each in gpus]


def test_groups_and_orders():
    def got_and_wanted(vector):
        gpus = [gpu(entry) for entry in vector["devices"]]
        got = (
            [named(group) for group in by_performance(gpus)],
            [named(group) for group in by_library(gpus)],
            named(sorted_for_layout(gpus)),
        )
        return got, (vector["by_performance"] or [], vector["by_library"] or [], vector["sorted_for_layout"])

    recorded.check(recorded.load("gpu_devices", "grouping"), got_and_wanted)


def test_minimum_memory():
    recorded.check(
        recorded.load("gpu_devices", "minimum_memory"),
        lambda vector: (minimum_memory(vector["library"]), vector["bytes"]),
    )


def test_every_kind_is_tested():
    kinds = {vector["kind"] for vector in recorded.load("gpu_devices")}
    of_other_libraries = {"flash_attention_supported", "compare"}
    assert kinds - of_other_libraries == {"grouping", "minimum_memory"}

"""The recorded vectors of layouts in terms of the code."""

from vkbackend.placement import layout
from vkbackend.placement.gpus import Gpu
from vkbackend.placement.layout import Wishes


def gpu(entry: dict) -> Gpu:
    return Gpu(
        entry["id"],
        entry["library"],
        free=entry["free_memory"],
        is_integrated=entry["integrated"],
        graph=entry["graph"],
    )


def wishes(vector: dict) -> Wishes:
    return Wishes(
        vector["num_gpu"],
        vector["require_full"],
        vector["sched_spread"],
        vector["gpu_overhead"],
        vector["system_free"],
        vector["system_swap_free"],
    )


def written(found: layout.Layout) -> list[dict]:
    return [{"id": part.id, "layers": list(part.layers), "library": part.library} for part in found]

"""Layouts that are tried until one fits, compared with 106 recorded loads."""

import recorded
from layout_vectors import gpu, wishes, written

from vkbackend.errors import OutOfMemory
from vkbackend.placement import layout
from vkbackend.placement.layout import Needs, Outcome, Stage


class Loader:
    """Answers with what a model needs, as the recorded runner did. allocatable: the most that can be allocated, by
    device id.
    """

    def __init__(self, vector: dict):
        self.vector, self.requests, self.needs = vector, [], None
        self.layers = tuple(weights + cache for weights, cache in zip(vector["layer_weights"], vector["layer_cache"]))

    def __call__(self, stage: Stage, found: layout.Layout) -> Outcome:
        vector = self.vector
        whole = layout.num_layers(found) == len(self.layers)
        graph = vector["graph_full_offload"] if whole else vector["graph_partial_offload"]
        graphs = {gpu(entry).key: 0 for entry in vector["devices"]} | {part.key: graph for part in found if part.layers}
        needs = Needs(self.layers, graphs, vector["input_weights"], vector["cpu_graph"])
        success = stage is Stage.FIT or all(
            self.taken(part) + graphs[part.key] <= vector["allocatable"].get(part.id, 1 << 63) for part in found
        )
        self.requests.append({"layout": written(found), "operation": stage.value, "success": success})
        return Outcome(success, needs)

    def taken(self, part) -> int:
        return sum(self.layers[layer] for layer in part.layers)


def test_loads_as_recorded():
    def got_and_wanted(vector):
        loader = Loader(vector)
        try:
            found, outcome = layout.settle(
                [gpu(entry) for entry in vector["devices"]], len(loader.layers), loader, wishes(vector)
            )
        except OutOfMemory as error:
            return (str(error), loader.requests), (vector.get("error"), vector["requests"])
        total, on_devices = layout.sizes(found, outcome.needs)
        got = {
            "layout": written(found),
            "devices_used": [{"id": part.id, "library": part.library} for part in found],
            "requests": loader.requests,
            "total_size": total,
            "vram_size": on_devices,
        }
        return got, {key: vector.get(key) for key in got}

    recorded.check(recorded.load("gpu_load_loop"), got_and_wanted)

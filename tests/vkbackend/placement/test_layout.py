"""Which layers go to which device, as recorded: 503 layouts."""

import pytest
import recorded
from layout_vectors import gpu, wishes, written

from vkbackend.errors import OutOfMemory
from vkbackend.placement import layout
from vkbackend.placement.gpus import MIB, Gpu
from vkbackend.placement.layout import Needs, Wishes


def test_layouts_as_recorded():
    def got_and_wanted(vector):
        gpus = [gpu(entry) for entry in vector["devices"]]
        needs = Needs(
            tuple(vector["layer_weights"]),
            {each.key: each.graph for each in gpus},
            vector["input_weights"],
            vector["cpu_graph"],
        )

        def found():
            made = layout.create_layout(gpus, needs, wishes(vector), vector["backoff"])
            return written(made), layout.num_layers(made)

        wanted = {"error": vector["error"]} if "error" in vector else (vector["layout"], vector["total_layers_on_gpu"])
        return recorded.outcome(found, OutOfMemory), wanted

    recorded.check(recorded.load("gpu_layout"), got_and_wanted)


@pytest.mark.parametrize("wanted", [1, 5, 7])
def test_the_search_for_a_number_of_layers_that_cannot_fit_ends(wanted):
    """The upper bound is 1000 times the memory, where adjacent float32 numbers are further apart than the limit."""
    gpus = [Gpu("0", free=500 * MIB), Gpu("1", free=480 * MIB)]
    needs = Needs((3000 * MIB,) * 8, {each.key: 0 for each in gpus})
    found = layout.create_layout(gpus, needs, Wishes(num_gpu=wanted, host_free=1 << 40))
    assert layout.num_layers(found) == wanted

"""Loading a model: its layers are views of the file, and then get their weights on a device."""

from dataclasses import replace

import pytest
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend.graph.parts import LayerSpan
from vkbackend.loading import ModelFile, load, load_parts, read

NUM_LAYERS = 2


@pytest.fixture(params=ARCHITECTURES)
def counted(tmp_path, request) -> tuple[ModelFile, list]:
    """A model file, and the layers that were made of it."""
    file = read(write_tiny_gguf(tmp_path / "tiny.gguf", request.param, num_layers=NUM_LAYERS))
    made = []

    def make_layers(weights, config):
        made.append(file.make_layers(weights, config))
        return made[-1]

    return replace(file, make_layers=make_layers), made


@pytest.mark.parametrize("on_device", [False, True], ids=["cpu", "device"])
def test_layers_are_made_once(counted, device, on_device):
    file, made = counted
    loaded = load(file, device if on_device else None)
    assert made == [loaded.layers]
    assert (loaded.layers.output_norm.weight.buffer is not None) == on_device


def test_layers_in_several_places_are_made_once_for_each(counted, device):
    file, made = counted
    is_tied = file.architecture == "gemma3"
    spans = [LayerSpan(0, 1, NUM_LAYERS, is_tied), LayerSpan(1, NUM_LAYERS + 1, NUM_LAYERS, is_tied)]
    loaded = load_parts(file, [(spans[0], None), (spans[1], device)])
    assert made == [part.layers for part in loaded.parts]
    on_cpu, on_device = made
    assert on_cpu.output_norm.weight.buffer is None and on_device.output_norm.weight.buffer is not None
    first, second = (block.attention.pre_norm.weight for block in on_device.blocks[:2])
    assert first.buffer is None and second.buffer

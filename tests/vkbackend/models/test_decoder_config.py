"""The sizes of decoders, read from the metadata of tiny files."""

import math

import numpy as np
import pytest
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend import loading
from vkbackend.errors import GGUFError, UnsupportedModel
from vkbackend.graph.builder import Graph
from vkbackend.graph.step import StepShape
from vkbackend.graph.vector import Vector
from vkbackend.models.blocks import Rope
from vkbackend.models.decoder_config import DecoderConfig, Experts
from vkbackend.models.hyperparameters import Hyperparameters
from vkbackend.models.weights import Weights
from vkbackend.ops.rope import as_turns


def config(path, architecture, **fields):
    keys = {f"{architecture}.{key.replace('__', '.')}": value for key, value in fields.items()}
    read = loading.read(write_tiny_gguf(path / "tiny.gguf", architecture, fields=keys)).config
    assert isinstance(read, DecoderConfig)
    return read


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_decoder_checks_the_same_sizes(tmp_path, architecture):
    with pytest.raises(GGUFError, match="heads of"):
        config(tmp_path, architecture, attention__head_count_kv=3)
    with pytest.raises(GGUFError, match="shape"):
        config(tmp_path, architecture, feed_forward_length=32)
    with pytest.raises(GGUFError, match="expert_used_count"):
        config(tmp_path, architecture, expert_count=4)
    with pytest.raises(GGUFError, match="5 of 4 experts"):
        config(tmp_path, architecture, expert_count=4, expert_used_count=5)
    with pytest.raises(UnsupportedModel, match="2 of 2000 experts"):
        config(tmp_path, architecture, expert_count=2000, expert_used_count=2)


def test_routing_is_read_from_the_keys(tmp_path):
    keys = {"expert_count": 8, "expert_used_count": 3, "expert_weights_scale": 2.5, "expert_weights_norm": True}
    groups = {"expert_group_count": 4, "expert_group_used_count": 2, "expert_gating_func": 2}

    def routing(**fields):
        named = {f"llama.{key}": value for key, value in (keys | fields).items()}
        meta = Hyperparameters(loading.read(write_tiny_gguf(tmp_path / "tiny.gguf", fields=named)).gguf)
        experts = Experts.read(meta)
        assert experts is not None
        return experts.routed(meta, gating="softmax", renormalize=False)

    plain, grouped = routing(), routing(**groups)
    assert (plain.gating, plain.renormalize, plain.factor, plain.groups) == ("softmax", True, 2.5, 1)
    assert (grouped.gating, grouped.groups, grouped.groups_used) == ("sigmoid", 4, 2)
    with pytest.raises(GGUFError, match="3 of 8 experts, in 1 of 4 groups"):
        routing(**groups | {"expert_group_used_count": 1})
    with pytest.raises(UnsupportedModel, match="gating function 3"):
        routing(expert_gating_func=3)


def test_llama_rotates_the_leading_elements_of_a_head(tmp_path):
    assert config(tmp_path, "llama", rope__dimension_count=8).ropes[0].num_rotated == 8


def test_gemma3_ignores_the_number_of_rotated_elements(tmp_path):
    """All elements of its heads rotate."""
    read = config(tmp_path, "gemma3", rope__dimension_count=3)
    assert read.ropes[0].num_rotated == read.head_dim


def test_long_contexts_take_the_long_factors_of_frequencies(tmp_path):
    keys = {"llama.rope.scaling.original_context_length": 128, "llama.rope.scaling.type": "longrope"}
    tensors = {f"rope_factors_{length}.weight": (32,) for length in ("short", "long")}
    path = write_tiny_gguf(tmp_path / "long.gguf", fields=keys, tensors=tensors)
    file = loading.read(path)
    assert isinstance(file.config, DecoderConfig)
    rope = Rope(Weights(file.gguf), file.config.ropes[0])
    graph = Graph(StepShape(1, 0), (1, 1))
    pairs = 10000.0 ** (-np.arange(32) / 32)
    for context_length, length in ((1, "short"), (128, "short"), (129, "long")):
        factors = file.gguf.data(f"rope_factors_{length}.weight").view(np.float32)
        turns = rope(graph, context_length).turns.constant
        # With a factor for sines and cosines that is not in the file: the model was trained with 4 times the context.
        assert isinstance(turns, Vector)
        assert np.array_equal(turns.values, as_turns(pairs / factors, (1 + math.log(4) / math.log(128)) ** 0.5)), length

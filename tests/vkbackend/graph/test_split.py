"""A model whose layers are in several places gives the same answers as in one place."""

from pathlib import Path

import numpy as np
import pytest
from shared_data import shared
from starter_models import model_path
from tiny_gguf import ARCHITECTURES, write_tiny_gguf
from validation_layers import LAYERS, messages
from vulkan_drivers import DEFAULT, run_on

from vkbackend import loading
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import ModelRunner
from vkbackend.graph.parts import LayerSpan
from vkbackend.tokenizer import Tokenizer

NUM_BLOCKS = 4
TOKENS = [int(token) for token in np.random.default_rng(1).integers(3, 200, 180)]
PLACES = {  # layers first ... last - 1, and whether on the device; layer 4 is the output
    "cpu-device": [(0, 2, False), (2, 5, True)],
    "output-on-cpu": [(0, 1, False), (1, 4, True), (4, 5, False)],
    "device-cpu": [(0, 3, True), (3, 5, False)],
    "device-cpu-device": [(0, 1, True), (1, 2, False), (2, 5, True)],
    "two-on-device": [(0, 2, True), (2, 5, True)],
}


def split(file, places, device) -> loading.LoadedLayers:
    is_tied = "output.weight" not in file.gguf.tensors
    return loading.load_parts(
        file,
        [
            (LayerSpan(first, last, NUM_BLOCKS, is_tied), device if on_device else None)
            for first, last, on_device in places
        ],
    )


def logprobs(model, **arguments) -> np.ndarray:
    """A long prompt in chunks, the first of them without logits; then a prompt in a step with a decoding sequence; then
    both decode.
    """
    runner = ModelRunner(model, context_length=256, max_sequences=2, kv_type="f32", num_pages=16, **arguments)
    first, second = runner.open_sequence(), runner.open_sequence()
    rows = runner.step([SequenceWork(first, TOKENS[:140], 3)])
    found = [row.full() - row.log_sum_exp for row in rows]
    for begin, end in ((0, 20), (20, 21), (21, 22)):
        rows = runner.step([SequenceWork(first, [TOKENS[140 + begin]], 1), SequenceWork(second, TOKENS[begin:end], 1)])
        found += [row.full() - row.log_sum_exp for row in rows]
    return np.stack(found)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logprobs_are_those_of_one_place(device, tmp_path, architecture):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", architecture, "q4_k", num_layers=NUM_BLOCKS)
    file = loading.read(path)
    whole = logprobs(loading.load(path, device))
    assert whole.shape[0] == 9 and np.ptp(whole) > 1
    for name, places in PLACES.items():
        model = split(file, places, device)
        assert np.abs(logprobs(model) - whole).max() < 2e-5, name


def test_each_place_holds_its_own_layers_and_no_more(device, tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "q8_0", num_layers=NUM_BLOCKS)
    file = loading.read(path)
    low, middle, high = split(file, PLACES["output-on-cpu"], device).parts
    assert not down(low, 0).parts and high.layers.output.stacks[0]._array is not None
    assert [bool(down(middle, block).parts) for block in range(NUM_BLOCKS)] == [False, True, True, True]
    assert not middle.layers.embed.weight.parts and down(low, 0)._array is not None
    norms = [block.attention.pre_norm.weight for block in middle.layers.blocks]
    assert norms[0].buffer is None and norms[1].buffer is not None


def down(part, block: int):
    """The last weight of a block, as a part of the model has it."""
    return part.layers.blocks[block].feed_forward.inner.down.stacks[0]


def test_only_the_first_place_holds_learned_positions(device):
    """gpt2, whose layer norms, activations and positions then run in both places."""
    file = loading.read(shared("oracles/text/gpt2") / "model.gguf")
    whole = logprobs(loading.load(file, device))
    for devices in ((None, device), (device, None)):
        spans = LayerSpan(0, 1, 2, True), LayerSpan(1, 3, 2, True)
        model = loading.load_parts(file, list(zip(spans, devices)))
        assert np.abs(logprobs(model) - whole).max() < 2e-5
        on_device = [bool(part.layers.embed.positions.parts) for part in model.parts]
        assert on_device == [devices[0] is not None, False]


def test_intermediates_are_found_in_their_part(device, tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", num_layers=NUM_BLOCKS)
    runner = ModelRunner(
        split(loading.read(path), PLACES["cpu-device"], device), context_length=64, num_pages=2, keep=True
    )
    runner.step([SequenceWork(runner.open_sequence(), TOKENS[:5], 1)])
    assert (
        runner.executor.read("blk.0.attn_norm").shape[0] == 5
        and runner.executor.read("blk.3.attn_norm").shape[1] == 256
    )
    with pytest.raises(KeyError, match="blk.9"):
        runner.executor.read("blk.9.attn_norm")


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_a_real_model_in_two_places_agrees_with_one(device, name):
    """Five layers on the device, as with num_gpu 5. They differ by the order of sums in float32."""
    file = loading.read(model_path(name))
    count, is_tied = file.config.num_layers, "output.weight" not in file.gguf.tensors
    tokens = Tokenizer.from_gguf(file.gguf).encode(
        "The sky over the harbour was the colour of a television, tuned to a dead channel."
    )

    def logprobs(model):
        runner = ModelRunner(model, context_length=64, kv_type="f32")
        rows = runner.step([SequenceWork(runner.open_sequence(), tokens[:-1], len(tokens) - 1)])
        return np.array([row.full()[following] - row.log_sum_exp for row, following in zip(rows, tokens[1:])])

    whole = logprobs(loading.load(file, device))
    places = [
        (LayerSpan(0, count - 4, count, is_tied), None),
        (LayerSpan(count - 4, count + 1, count, is_tied), device),
    ]
    assert np.abs(logprobs(loading.load_parts(file, places)) - whole).max() < 1e-4


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_engines_that_share_a_device_give_no_validation_message(tmp_path, layer):
    """Debian's layer reports queues that two threads use at once, the newer one hazards. All copies go through the
    rings.
    """
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "f32", num_layers=NUM_BLOCKS)
    environment = layer.environment(tmp_path / "layer") | {"VKBACKEND_FORCE_DISCRETE": "1"}
    result = run_on(DEFAULT, Path("run_shared_device.py"), path, environment=environment)
    assert layer.is_among(result["layers"]) and [len(places) for places in result["places"]] == [1, 3]
    assert all(answers == answers[:1] * 4 for answers in result["answers"])
    assert messages(tmp_path / "layer") == ""


def test_scores_and_hidden_states_come_from_the_last_part(device, tmp_path):
    """Also if only the output is on the CPU, so that no other part has results."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "q8_0", num_layers=NUM_BLOCKS)
    file = loading.read(path)

    def outputs(model):
        runner = ModelRunner(model, context_length=64, max_sequences=2, kv_type="f32", num_pages=2)
        scored = runner.step([SequenceWork(runner.open_sequence(), TOKENS[:9], targets=TOKENS[1:9])])
        (hidden,) = runner.step([SequenceWork(runner.open_sequence(), TOKENS[:9], hidden=True)])
        return np.array([row.target_logit - row.log_sum_exp for row in scored]), hidden

    scores, hidden = outputs(loading.load(path, device))
    for name in ("cpu-device", "output-on-cpu", "device-cpu"):
        split_scores, split_hidden = outputs(split(file, PLACES[name], device))
        assert len(scores) == 8 and np.abs(split_scores - scores).max() < 1e-5 * np.abs(scores).max(), name
        assert hidden.shape == (256,) and np.abs(split_hidden - hidden).max() < 1e-3 * np.abs(hidden).max(), name

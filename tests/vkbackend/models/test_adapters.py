"""A model with an adapter gives the answers of the model whose weights have the same changes, wherever it runs."""

from pathlib import Path

import numpy as np
import pytest
from cpu_programs import require_ggml
from tiny_adapter import random_pairs, write_adapter, write_merged
from tiny_gguf import write_tiny_gguf

from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import PAGE_SIZE, ModelRunner, step_limits
from vkbackend.errors import GGUFError, UnsupportedModel
from vkbackend.graph.cache_layout import CacheLayout
from vkbackend.graph.parts import LayerSpan
from vkbackend.loading import LoadedLayers, load, load_parts, read
from vkbackend.models.weights import Weights
from vkbackend.placement.memory_plan import Place, plan_memory
from vkbackend.placement.needs import Sizes

TOKENS = [int(token) for token in np.random.default_rng(1).integers(3, 200, 64)]
EVERY_MATRIX = {"llama": (), "gemma3": ("blk.",)}  # gemma3's embedding is its output, too


def logprobs(model: LoadedLayers, kv_type: str = "f32", chunk: int = 40) -> np.ndarray:
    """Of a prompt in chunks, of a prompt in a step with a decoding sequence, and of both sequences decoding."""
    runner = ModelRunner(model, context_length=256, max_sequences=2, kv_type=kv_type, num_pages=16)
    first, second = runner.open_sequence(), runner.open_sequence()
    found = []
    for begin in range(0, 40, chunk):
        (row,) = runner.step([SequenceWork(first, TOKENS[begin : begin + chunk], 1)])
        found = [row.full() - row.log_sum_exp]
    for begin, end in ((0, 20), (20, 21), (21, 22)):
        rows = runner.step([SequenceWork(first, [TOKENS[40 + begin]], 1), SequenceWork(second, TOKENS[begin:end], 1)])
        found += [row.full() - row.log_sum_exp for row in rows]
    return np.stack(found)


@pytest.fixture(autouse=True)
def untuned(monkeypatch):
    """Measuring kernels takes longer than these tests."""
    monkeypatch.setenv("VKBACKEND_AUTOTUNE", "0")


@pytest.fixture(params=["twins", "ggml", "device"])
def place(request, monkeypatch):
    """The device, or None for the CPU with the numpy reference or ggml."""
    if request.param == "ggml":
        monkeypatch.setenv("VKBACKEND_CPU", "ggml")
        require_ggml()
    return request.getfixturevalue("device") if request.param == "device" else None


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def adapted(request, tmp_path_factory) -> tuple[Path, Path, Path]:
    """A model, an adapter of rank 6 for each of its matrices, and both merged."""
    folder, architecture = tmp_path_factory.mktemp("adapted"), request.param
    base = write_tiny_gguf(folder / "base.gguf", architecture, "f32", biases=("attn_q", "ffn_up"))
    pairs = random_pairs(base, 6, names=EVERY_MATRIX[architecture])
    adapter = write_adapter(folder / "adapter.gguf", pairs, architecture=architecture, alpha=9.0)
    return base, adapter, write_merged(folder / "merged.gguf", base, [(pairs, 1.5)])


def test_an_adapter_changes_answers_as_merged_weights_do(adapted, place):
    base, adapter, merged = adapted
    found, wanted = logprobs(load(read(base, [adapter]), place)), logprobs(load(merged, place))
    assert np.abs(found - wanted).max() < 2e-3 and np.abs(found - logprobs(load(base, place))).max() > 0.5


def test_bits_do_not_depend_on_the_chunks_of_a_prompt(adapted, path_with_bits):
    model = load(read(adapted[0], [adapted[1]]), path_with_bits)
    assert (logprobs(model, "f16", chunk=40) == logprobs(model, "f16", chunk=8)).all()


def test_layers_in_several_places_have_their_part_of_the_adapter(adapted, device):
    base, adapter, _ = adapted
    file = read(base, [adapter])
    is_tied = file.architecture == "gemma3"
    spans = [LayerSpan(0, 1, 2, is_tied), LayerSpan(1, 3, 2, is_tied)]
    for places in ([None, device], [device, None]):
        found = logprobs(load_parts(file, list(zip(spans, places))))
        assert np.abs(found - logprobs(load(file, device))).max() < 1e-4


def test_the_memory_plan_counts_the_adapter(adapted, device):
    base, adapter, _ = adapted
    plain, file = read(base), read(base, [adapter])
    layout = CacheLayout.of(
        file.config, context_length=512, num_sequences=1, kind="f16", step_tokens=128, page_size=PAGE_SIZE
    )
    sizes, without = (Sizes.of(each, layout=layout, max_tokens=128, max_outputs=32) for each in (file, plain))
    in_all = sum(sizes.blocks) + sizes.output + (0 if sizes.is_tied else sizes.embedding)
    assert in_all <= load(file, device).num_bytes < in_all * 1.05 + (1 << 20)
    assert all(size > before for size, before in zip(sizes.blocks, without.blocks))
    assert sizes.is_tied or sizes.output > without.output and sizes.embedding > without.embedding
    limits = step_limits(file.config.vocab_size, 512, 1, 128)
    places = [Place(None, (LayerSpan(0, 3, 2, sizes.is_tied),))]
    on_cpu, before = (plan_memory(each, places, layout, limits).places[0] for each in (file, plain))
    assert on_cpu.mapped - before.mapped == file.num_bytes - plain.num_bytes > 0


def test_adapters_add_up(tmp_path, place):
    """One of them has float16 matrices, and each changes only some weights."""
    base = write_tiny_gguf(tmp_path / "base.gguf", "llama", "f32")
    first, second = random_pairs(base, 4, names=("attn_q", "attn_v")), random_pairs(base, 32, names=("ffn_up",), seed=1)
    second = {name: tuple(each.astype(np.float16).astype(np.float32) for each in pair) for name, pair in second.items()}
    adapters = [
        write_adapter(tmp_path / "first.gguf", first, alpha=0.0),
        write_adapter(tmp_path / "second.gguf", second, alpha=8.0, dtype=np.float16),
    ]
    merged = write_merged(tmp_path / "merged.gguf", base, [(first, 1.0), (second, 0.25)])
    wanted = logprobs(load(merged, place))
    assert np.abs(logprobs(load(read(base, adapters), place)) - wanted).max() < 2e-3
    assert np.abs(logprobs(load(read(base, adapters[:1]), place)) - wanted).max() > 0.01


def test_an_adapter_adds_to_quantized_weights(tmp_path, place, request):
    """ggml rounds activations to 8 bits."""
    base = write_tiny_gguf(tmp_path / "base.gguf", "llama", "q4_k")
    pairs = random_pairs(base, 8, names=("blk.",))
    adapter = write_adapter(tmp_path / "adapter.gguf", pairs, alpha=8.0)
    template = write_tiny_gguf(tmp_path / "f32.gguf", "llama", "f32")
    merged = write_merged(tmp_path / "merged.gguf", template, [(pairs, 1.0)], weights=base)
    found = logprobs(load(read(base, [adapter]), place))
    difference = np.abs(found - logprobs(load(merged, place))).max()
    assert difference < (0.35 if "ggml" in request.node.name else 2e-3)
    assert np.abs(found - logprobs(load(base, place))).max() > 1


QUERY = "blk.0.attn_q.weight"
FAULTS = {  # arguments of write_adapter beside one good pair, error, parts of its text
    "no adapter": ({"fields": {"general.type": "model"}}, GGUFError, ("is not an adapter", "'model'")),
    "another kind": ({"fields": {"adapter.type": "dora"}}, UnsupportedModel, ("the type 'dora'", "'lora'")),
    "another architecture": ({"architecture": "qwen2"}, UnsupportedModel, ("'qwen2'", "'llama'")),
    "half a pair": (
        {"tensors": {"blk.1.attn_k.weight.lora_a": np.zeros((4, 256), np.float32)}},
        GGUFError,
        ("blk.1.attn_k.weight.lora_a without blk.1.attn_k.weight.lora_b",),
    ),
    "no pair": (
        {"tensors": {"blk.1.attn_k.weight": np.zeros((4, 256), np.float32)}},
        UnsupportedModel,
        ("blk.1.attn_k.weight", ".lora_a"),
    ),
    "a wrong shape": (
        {"pairs": {QUERY: (np.zeros((4, 224), np.float32), np.zeros((256, 4), np.float32))}},
        GGUFError,
        (f"{QUERY}.lora_a has shape (4, 224)", "(4, 256)"),
    ),
    "another rank": (
        {"pairs": {QUERY: (np.zeros((4, 256), np.float32), np.zeros((256, 8), np.float32))}},
        GGUFError,
        (f"{QUERY}.lora_a has shape (4, 256)", "(8, 256)"),
    ),
    "another model": (
        {"pairs": {"blk.9.attn_q.weight": (np.zeros((4, 256), np.float32), np.zeros((256, 4), np.float32))}},
        GGUFError,
        ("blk.9.attn_q.weight", "does not have"),
    ),
    "a weight that is no factor": (
        {"pairs": {"output_norm.weight": (np.zeros((4, 256), np.float32), np.zeros((256, 4), np.float32))}},
        UnsupportedModel,
        ("output_norm.weight", "not supported"),
    ),
    "not matrices": (
        {"pairs": {QUERY: (np.zeros((2, 4, 256), np.float32), np.zeros((2, 256, 4), np.float32))}},
        UnsupportedModel,
        (f"{QUERY}.lora_a has shape (2, 4, 256)",),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_adapter_is_named(tmp_path, fault):
    base = write_tiny_gguf(tmp_path / "base.gguf", "llama", "f32")
    arguments, kind, parts = FAULTS[fault]
    adapter = write_adapter(tmp_path / "faulty.gguf", **{"pairs": random_pairs(base, 4, names=("blk.0",)), **arguments})
    with pytest.raises(kind) as caught:
        load(read(base, [adapter]))
    assert all(part in str(caught.value) for part in ("faulty.gguf", *parts))


def test_what_an_adapter_adds_to_blocks_that_the_model_skips_is_left_out(tmp_path):
    base = write_tiny_gguf(tmp_path / "base.gguf", "llama", "f32")
    file = read(base, [write_adapter(tmp_path / "adapter.gguf", random_pairs(base, 4, names=("blk.1",)))])
    weights = Weights(file.gguf, file.adapters)
    weights.skip()
    weights.check_all_used()

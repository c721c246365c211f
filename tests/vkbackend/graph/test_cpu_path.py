"""The CPU path, models on the numpy twins: the same bits with any amount of memory and in any batch, and no growing
copies.
"""

import logging

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from starter_models import model_path
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

import vkbackend.graph.cache
import vkbackend.loading
from vkbackend.engine.contract import SequenceWork
from vkbackend.engine.runner import ModelRunner
from vkbackend.graph.cache import CacheStorage, HalfValues, cache_bytes
from vkbackend.graph.cache_layout import CacheLayout, LayerGroup, fitting_kind
from vkbackend.loading import load
from vkbackend.ops import matmul, packed
from vkbackend.ops.packed import FORMATS, PackedMatrix
from vkbackend.ops.q8_cache import Q8Cache

PROMPT = [3, 50, 99, 7, 7, 120, 200, 31, 64, 5, 18, 77, 210, 4, 150, 33, 92, 11, 240, 66]


def step_logits(model, **options) -> np.ndarray:
    """Rows of a prompt (gemm), of a few tokens and of one (gemv)."""
    runner = ModelRunner(model, context_length=64, **options)
    sequence = runner.open_sequence()
    rows = [row for tokens in (PROMPT, PROMPT[:3], [9]) for row in runner.step([SequenceWork(sequence, tokens, 1)])]
    return np.stack([row.full() for row in rows])


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(np.asarray(found).view(np.uint32), np.asarray(expected).view(np.uint32))


def factors(model) -> list[PackedMatrix]:
    """The weights that the model multiplies by."""
    pairs = [(block.attention.inner, block.feed_forward.inner) for block in model.layers.blocks]
    linear = [
        stack
        for attention, feed_forward in pairs
        for part in (attention.qkv, attention.output, feed_forward.down)
        for stack in part.stacks
    ]
    return [*linear, *(feed_forward.hidden.weight for _, feed_forward in pairs), *model.layers.output.stacks]


@pytest.fixture
def free_memory(monkeypatch):
    """free_memory(bytes) sets the free memory of the machine."""

    def say(num_bytes):
        for module in (vkbackend.loading, vkbackend.graph.cache):
            monkeypatch.setattr(module, "available_host_memory", lambda: num_bytes)

    return say


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_by_tiles_where_memory_is_short(tmp_path, monkeypatch, free_memory, caplog, architecture):
    """With room for all, some or none of the weights in f32: the same bits, and a warning about missing memory."""
    monkeypatch.setattr(
        packed, "TILE_BYTES", 100 * 4 * 256
    )  # 96 rows of 256, 48 of 512: tiles end within tensors and reach over their ends
    path = write_tiny_gguf(tmp_path / "tiny.gguf", architecture, "q4_k", formats={"blk.1.attn_v": "q6_k"})
    plenty = load(path)
    everything = sum(matrix.f32_bytes for matrix in factors(plenty))
    expected = step_logits(plenty)
    assert all(matrix._array is not None for matrix in factors(plenty)) and plenty.num_bytes > everything
    assert plenty.layers.embed.weight._array is None or plenty.layers.embed.weight in factors(
        plenty
    )  # rows of it are read, not all
    for share in (0.5, 0.0):
        file_bytes = path.stat().st_size
        free_memory(max(int(share * everything / vkbackend.loading.SHARE_FOR_WEIGHTS), file_bytes))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            model = load(path)
        taken = sum(matrix.f32_bytes for matrix in factors(model) if matrix._array is not None)
        assert taken <= max(share * everything, file_bytes) and model.num_bytes - plenty.num_bytes == taken - everything
        assert any("needs 0.00 GiB for its weights in f32" in record.message for record in caplog.records)
        assert_same_bits(step_logits(model), expected)


def test_no_room_at_all_expands_nothing(tmp_path):
    matrices = [PackedMatrix.random(np.random.default_rng(1), "q8_0", 64, 256) for _ in range(3)]
    assert packed.expand(matrices, 0) == 0 and all(matrix._array is None for matrix in matrices)
    assert packed.expand(matrices, 2 * matrices[0].f32_bytes + 1) == 2 * matrices[0].f32_bytes
    assert [matrix._array is not None for matrix in matrices] == [True, True, False]


@pytest.mark.parametrize("name", FORMATS)
def test_tiles_are_the_rows(name, monkeypatch):
    """For three stacked tensors with odd numbers of rows, kept dequantized or not, and for single rows."""
    monkeypatch.setattr(packed, "TILE_BYTES", 1)  # 16 rows a tile
    rng, k = np.random.default_rng(5), 256
    parts = [PackedMatrix.random(rng, name, rows, k) for rows in (7, 41, 13)]
    stacked = PackedMatrix("stacked", (61, k), parts[0].format, [part.raws[0] for part in parts])
    whole = np.concatenate([part.array() for part in parts])
    for _ in ("quantized", "expanded"):
        assert [first for first, _ in stacked.tiles()] == [0, 16, 32, 48]
        assert_same_bits(np.concatenate([tile for _, tile in stacked.tiles()]), whole)
        assert_same_bits(stacked.rows(np.array([60, 0, 7, 7, 48])), whole[[60, 0, 7, 7, 48]])
        assert_same_bits(stacked.array(), whole)
        stacked.expand()


def test_dequantization_over_several_slabs(monkeypatch):
    """Threads that each write a slab give the same result as a single one."""
    from vkbackend.gguf import dequantize

    matrix = PackedMatrix.random(np.random.default_rng(6), "q5_k", 50, 512)
    expected = matrix.format.dequantize(matrix.raws[0])
    monkeypatch.setattr(dequantize, "SLAB", 3 * 256)
    assert_same_bits(matrix.format.dequantize(matrix.raws[0]), expected)


def decode_alone_and_together(model, tokens_of_step, prompts):
    """Rows of sequences that decode alone, and of the same ones in a common step."""
    runners = [ModelRunner(model, context_length=128, max_sequences=len(prompts)) for _ in range(2)]
    ids = [[runner.open_sequence() for _ in prompts] for runner in runners]
    for runner, sequences in zip(runners, ids):
        for sequence, prompt in zip(sequences, prompts):
            runner.step([SequenceWork(sequence, prompt)])
    for token in tokens_of_step:
        single = [
            runners[0].step([SequenceWork(sequence, [token + index], 1)])[0].full()
            for index, sequence in enumerate(ids[0])
        ]
        together = runners[1].step(
            [SequenceWork(sequence, [token + index], 1) for index, sequence in enumerate(ids[1])]
        )
        yield single, [row.full() for row in together]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("width", [2, 5, matmul.ONE_BY_ONE])
def test_decode_bits_do_not_depend_on_the_batch(tmp_path, architecture, width):
    model = load(write_tiny_gguf(tmp_path / "tiny.gguf", architecture, "q4_1"))
    for single, together in decode_alone_and_together(
        model, (12, 200, 5), [PROMPT[: 1 + 2 * index] for index in range(width)]
    ):
        assert_same_bits(together, single)


def test_decode_bits_of_a_real_model_do_not_depend_on_the_batch():
    """With matrices so large that BLAS splits them over threads."""
    model = load(model_path("smollm2"))
    for single, together in decode_alone_and_together(
        model, (12, 700), [PROMPT[: 1 + 5 * index] for index in range(4)]
    ):
        assert_same_bits(together, single)


def test_half_float_cache_in_f32_or_not(tmp_path, free_memory):
    """With little memory the cache is an array of half floats: the same bits. An f32 cache does not round."""
    model = load(write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "f32"))
    rows = {}
    for kind, free in (("f16", 1 << 40), ("f16", 1 << 16), ("f32", 1 << 16)):
        free_memory(free)
        runner = ModelRunner(model, context_length=64, kv_type=kind)
        cache = runner.storage.layers[0][0].array
        assert (type(cache), cache.dtype) == {
            ("f16", 1 << 40): (HalfValues, np.float32),
            ("f16", 1 << 16): (np.ndarray, np.float16),
            ("f32", 1 << 16): (np.ndarray, np.float32),
        }[kind, free]
        pairs = runner.storage.layers.values()
        assert runner.storage.num_bytes == sum(tensor.array.nbytes for pair in pairs for tensor in pair)
        rows[type(cache), cache.dtype] = step_logits(model, kv_type=kind)
    halves, halves_in_f32, precise = (
        rows[np.ndarray, np.dtype("float16")],
        rows[HalfValues, np.dtype("float32")],
        rows[np.ndarray, np.dtype("float32")],
    )
    assert_same_bits(halves_in_f32, halves)
    assert not np.array_equal(precise, halves)


def test_half_values_round_as_half_floats():
    values = np.array([1 / 3, 1e-8, 6e-8, -65504, 2049, 0, -0.0], np.float32)
    stored = np.zeros((3, len(values)), np.float32).view(HalfValues)
    stored[np.array([2, 0]), :] = values
    assert_same_bits(np.asarray(stored[2]), values.astype(np.float16).astype(np.float32))
    assert_same_bits(np.asarray(stored[0]), np.asarray(stored[2]))
    assert not np.asarray(stored[1]).any()


def test_cache_of_bytes_rounds_as_ggml():
    values = np.random.default_rng(2).standard_normal((3, 5, 2, 96), np.float32) * np.float32([1e-3, 1, 50]).reshape(
        3, 1, 1, 1
    )
    values[1, 2, 0, 32:64] = 0
    cache = Q8Cache.zeros(values.shape)
    cache[np.array([2, 0, 1]), :] = values[[2, 0, 1]]
    rows = values.reshape(-1, 96)
    expected = gguf.quants.dequantize(gguf.quants.quantize(rows, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)
    assert_same_bits(cache[:], expected.reshape(values.shape))
    assert_same_bits(Q8Cache.unpacked(cache.packed(), cache.shape)[:], cache[:])
    with pytest.raises(AssertionError):
        assert_same_bits(cache[:], values)


@pytest.mark.parametrize("head_dim, of_a_position", [(64, 68), (96, 104), (256, 272), (32, 36)])
def test_bytes_of_a_cache_of_bytes(head_dim, of_a_position):
    """Two blocks share a word of scales."""
    shape = (7, 16, 3, head_dim)
    packed = Q8Cache.zeros(shape).packed()
    assert packed.nbytes == cache_bytes(shape, "q8_0") == 7 * 16 * 3 * of_a_position
    layout = CacheLayout((LayerGroup(0, (0, 1), 7, 7),), 1, 0, "q8_0", 16, 3, head_dim, 112)
    storage = CacheStorage(layout, (0, 1))
    assert storage.num_bytes == 2 * 2 * 7 * 16 * 3 * (head_dim + head_dim // 32 * 2)


def test_cache_of_bytes_wants_whole_blocks(caplog):
    assert fitting_kind("q8_0", 96) == "q8_0" and not caplog.text
    assert fitting_kind("q8_0", 80) == "f16" and "this model's have 80; using f16" in caplog.text
    assert fitting_kind("f32", 80) == "f32"


def test_a_step_frees_what_it_no_longer_needs(tmp_path):
    """After each call, only values that later ones read are left: the activations of one layer, not of all."""
    model = load(write_tiny_gguf(tmp_path / "tiny.gguf", "llama", "f32", num_layers=6))
    runner = ModelRunner(model, context_length=64)
    runner.step([SequenceWork(runner.open_sequence(), PROMPT, 1)])
    (plan,) = runner.executor._plans.values()
    alive, most = set(), 0
    for call in plan.calls:
        alive |= {place.base for place in call.outputs if place is not None}
        most = max(most, len(alive))
        alive -= set(call.unused)
    assert most <= 6 < len(plan.names)

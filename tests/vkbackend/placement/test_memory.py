"""The memory that a model needs, computed before it is loaded."""

import numpy as np
import pytest
from tiny_gguf import ARCHITECTURES, write_tiny_gguf

from vkbackend import loading
from vkbackend.engine.runner import PAGE_SIZE
from vkbackend.gguf.reader import TensorInfo
from vkbackend.graph.cache_layout import CacheLayout
from vkbackend.graph.parts import LayerSpan
from vkbackend.models.upload import device_bytes
from vkbackend.ops.packed import PackedMatrix
from vkbackend.placement.layout import DeviceLayers
from vkbackend.placement.needs import Sizes, packed_bytes


def cache_layout(file) -> CacheLayout:
    return CacheLayout.of(
        file.config, context_length=512, num_sequences=1, kind="f16", step_tokens=128, page_size=PAGE_SIZE
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_are_those_of_what_is_loaded(device, tmp_path, architecture):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", architecture, "q4_k", num_layers=3)
    file = loading.read(path)
    sizes = Sizes.of(file, layout=cache_layout(file), max_tokens=128, max_outputs=32)
    loaded = loading.load(path, device)
    in_all = sum(sizes.blocks) + sizes.output + (0 if sizes.is_tied else sizes.embedding)
    assert in_all <= loaded.num_bytes < in_all * 1.05 + (1 << 20)
    assert sizes.is_tied == ARCHITECTURES[architecture].is_tied and len(sizes.layers) == 4
    key = ("Vulkan", "x")
    whole, last = DeviceLayers(*key, (0, 1, 2, 3)), DeviceLayers(*key, (2, 3))
    assert sizes.needs((whole,), [key]).graphs[key] > sizes.needs((last,), [key]).graphs[key] - sizes.is_tied
    none = sizes.needs((), [key])
    assert none.input_weights == (0 if sizes.is_tied else sizes.embedding) and none.graphs == {key: 0}
    assert (
        sizes.needs((last,), [key]).input_weights == sizes.embedding and sizes.needs((whole,), [key]).input_weights == 0
    )


def test_experts_are_counted_as_they_are_placed():
    rows, columns, experts = 96, 256, 5
    matrix = PackedMatrix.random(np.random.default_rng(0), "q4_k", experts * rows, columns, experts=experts)
    info = TensorInfo("blk.0.ffn_up_exps.weight", (experts, rows, columns), matrix.format.type, 0, 0)
    assert packed_bytes(info) == device_bytes(matrix, 8)


def test_vision_tensors_are_not_counted(device, tmp_path):
    """Not before the load, not in parts, and not in the loaded size."""
    plain, seeing = (
        loading.read(write_tiny_gguf(tmp_path / name, "gemma3", tensors=tensors))
        for name, tensors in (
            ("plain.gguf", {}),
            ("seeing.gguf", {"v.blk.0.attn_q.weight": (256, 2048), "mm.mm_input_projection.weight": (256, 512)}),
        )
    )
    options = {"layout": cache_layout(plain), "max_tokens": 128, "max_outputs": 32}
    assert seeing.num_bytes == plain.num_bytes
    assert Sizes.of(seeing, **options) == Sizes.of(plain, **options)
    for where in (None, device):
        assert loading.load(seeing, where).num_bytes == loading.load(plain, where).num_bytes
    span = LayerSpan(0, 3, 2, True)
    assert loading.load_parts(seeing, [(span, None)]).num_bytes == loading.load_parts(plain, [(span, None)]).num_bytes

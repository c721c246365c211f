"""Memory of a device: arenas, uploads and downloads, what is too large, what is counted and given back."""

import gc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vkbackend.device.buffers import Arena
from vkbackend.device.context import READBACK_BYTES, Device
from vkbackend.device.dispatch import Recorder
from vkbackend.device.upload_ring import PIECE_BYTES
from vkbackend.errors import OutOfMemory
from vkbackend.ops.packed import PackedMatrix
from vkbackend.ops.packing import largest_binding, place
from vkbackend.ops.run import reference, run


def test_arena_aligns_and_keeps_apart(device):
    arena = Arena(device, "device", 4096)
    buffers = [arena.allocate(size) for size in (1, 16, 17, 1000, 64, 4000, 5000, 3)]
    for index, buffer in enumerate(buffers):
        assert buffer.offset % arena.alignment == 0 and buffer.offset + buffer.num_bytes <= buffer.memory.size
        assert not any(buffer.overlaps(other) for other in buffers[index + 1 :])
        device.upload(buffer, np.full(buffer.num_bytes, index, np.uint8))
    for index, buffer in enumerate(buffers):
        assert (device.download(buffer, np.uint8, (buffer.num_bytes,)) == index).all()
    assert len(arena.memories) > 2 and arena.num_bytes == sum(memory.size for memory in arena.memories)


def test_arena_takes_little_more_than_its_buffers_do(device):
    """Buffers of equal size fill allocations, and small ones take the room that larger ones leave."""
    equal = Arena(device, "device", 64 << 10)
    for _ in range(6):
        equal.allocate(24 << 10)
    assert equal.num_bytes == 6 * (24 << 10)
    sizes = [40 << 10, 30 << 10, 10 << 10, 40 << 10, 20 << 10, 10 << 10] * 4
    mixed = Arena(device, "device", 64 << 10)
    for size in sizes:
        mixed.allocate(size)
    assert sum(sizes) <= mixed.num_bytes < 1.1 * sum(sizes)


def test_arena_refuses_what_no_binding_holds(device):
    arena = Arena(device, "device")
    with pytest.raises(ValueError, match="split it by rows"):
        arena.allocate(device.info.limits.max_storage_buffer_range + 1)
    assert arena.num_bytes == 0


@pytest.mark.parametrize("kind", ["device", "step", "readback"])
def test_more_than_the_heap_is_out_of_memory(device, kind):
    with pytest.raises(OutOfMemory, match="the device has"):
        device.memory(device.info.memory_total + 1, kind)


def test_memory_is_counted_and_given_back(device):
    before = device.allocated_bytes
    memory = device.memory(3 << 20, "device")
    assert device.allocated_bytes == before + (3 << 20)
    assert device.free_memory() <= device.info.memory_total - (3 << 20)
    del memory
    assert device.allocated_bytes == before


def test_free_memory_collects_what_nobody_holds(device):
    """A cycle that holds memory, as a graph and its values do, is let go of before a shortage is told."""
    gc.collect()  # what other tests left
    before = device.allocated_bytes
    cycle = SimpleNamespace(memory=device.memory(1 << 20, "device"))
    cycle.itself = cycle
    del cycle
    device.free_memory(wanted=1 << 62)
    assert device.allocated_bytes == before


def test_unified_memory_is_written_in_place(device):
    buffer = Arena(device, "device", 4096).allocate(64)
    device.upload(buffer, np.arange(16, dtype=np.float32))
    np.testing.assert_array_equal(buffer.array(np.float32, (4, 4)), np.arange(16, dtype=np.float32).reshape(4, 4))
    buffer.slice(8, 8).array(np.float32, (2,))[:] = 7
    np.testing.assert_array_equal(device.download(buffer, np.float32, (5,)), [0, 1, 7, 7, 4])


@pytest.mark.parametrize("size", [1, 4, 4096, PIECE_BYTES, READBACK_BYTES + 4, 2 * READBACK_BYTES + 12345])
def test_upload_and_download_in_pieces(discrete_device, size, monkeypatch):
    """More than the ring holds goes through it piece by piece; the neighbours' bytes stay."""
    copies = []
    copy = Recorder.copy
    monkeypatch.setattr(Recorder, "copy", lambda *arguments: (copies.append(arguments[-1]), copy(*arguments)))
    arena = Arena(discrete_device, "device")
    low, buffer, high = arena.allocate(64), arena.allocate(size), arena.allocate(64)
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    for part, value in ((low, 17), (high, 23)):
        discrete_device.upload(part, np.full(64, value, np.uint8))
    discrete_device.upload(buffer, data)
    np.testing.assert_array_equal(discrete_device.download(buffer, np.uint8, (size,)), data)
    assert sum(copies) == 2 * 64 + 2 * size and max(copies) <= READBACK_BYTES
    assert (discrete_device.download(low, np.uint8, (64,)) == 17).all() and (
        discrete_device.download(high, np.uint8, (64,)) == 23
    ).all()


def test_upload_that_does_not_fit(device):
    buffer = Arena(device, "device", 4096).allocate(32)
    with pytest.raises(ValueError, match="36 bytes do not fit a buffer of 32"):
        device.upload(buffer, np.zeros(9, np.float32))
    with pytest.raises(ValueError, match="outside a buffer of 32"):
        buffer.slice(16, 17)


@pytest.mark.parametrize("name", ["q4_1", "q6_k", "f32"])
def test_weight_larger_than_a_binding_is_split_by_rows(device, name):
    """On a device that binds 64 KiB at most: several parts, and the same results as in one piece."""
    small = Device(replace(device.info, limits=replace(device.info.limits, max_storage_buffer_range=1 << 16)))
    rng = np.random.default_rng(0)
    weight = PackedMatrix.random(rng, name, 1003, 256)
    place(weight, small, Arena(small, "device"))
    assert len(weight.parts) > 1 and sum(part.num_rows for part in weight.parts) == 1003
    assert all(
        max(part.quants.num_bytes, part.scales.num_bytes) <= largest_binding(small, weight) for part in weight.parts
    )
    x, tokens = rng.standard_normal((3, 256), np.float32), np.array([0, 1002, 500, 999], np.int32)
    whole = PackedMatrix("w", weight.shape, weight.format, weight.raws)
    np.testing.assert_array_equal(run(small, "matmul", x, whole, None), run(device, "matmul", x, whole, None))
    np.testing.assert_allclose(run(small, "embed", tokens, whole), reference("embed", tokens, whole), rtol=1e-6)


def test_closed_device_frees_its_memory(device):
    other = Device(device.info, force_discrete=True)
    buffer = Arena(other, "device", 4096).allocate(64)
    other.upload(buffer, np.zeros(64, np.uint8))
    other.download(buffer, np.uint8, (64,))
    assert other.allocated_bytes == 2 * PIECE_BYTES + READBACK_BYTES + 4096
    del buffer
    other.close()
    assert other.allocated_bytes == 0

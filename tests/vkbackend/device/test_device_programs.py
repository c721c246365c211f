"""An open device: memory, programs with derived barriers, kernels and their caches, errors."""

import gc
import struct
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from vulkan_drivers import missing, run_on

from vkbackend import _native
from vkbackend.device.buffers import Arena, Buffer
from vkbackend.device.context import READBACK_BYTES, Device
from vkbackend.device.dispatch import Dispatch, Program, Recorder, hazard_points
from vkbackend.device.failures import translated
from vkbackend.device.shaders import compile_glsl, spirv
from vkbackend.device.upload_ring import PIECE_BYTES
from vkbackend.errors import DeviceError, DeviceLost, OutOfMemory
from vkbackend.ops import OPS
from vkbackend.ops.packed import PackedMatrix
from vkbackend.ops.packing import largest_binding, place
from vkbackend.ops.run import prepare, reference, run

# Memory


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


@pytest.mark.parametrize(
    "result, kind, said",
    [
        (-1, OutOfMemory, "smaller model"),
        (-2, OutOfMemory, "smaller model"),
        (-4, DeviceLost, "dmesg"),
        (2, DeviceLost, "took too long"),
        (-3, DeviceError, "allocating"),
    ],
)
def test_results_of_vulkan_become_errors(result, kind, said):
    with pytest.raises(kind, match=said):
        with translated("allocating 5 bytes"):
            raise _native.VulkanError("vkSomething gave what it gave", result)
    with pytest.raises(KeyError):
        with translated("doing nothing"):
            raise KeyError("others pass")


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


# Programs


def parts(*ranges):
    memory = object()
    return [Buffer(memory, offset, size) for offset, size in ranges]


def step(reads=(), writes=()):
    return Dispatch("bandwidth_copy", tuple(reads), tuple(writes), (1, 1, 1))


def test_hazards_between_overlapping_bytes():
    a, b, low, high, inside = parts((0, 64), (64, 64), (0, 32), (32, 32), (16, 32))
    (other,) = parts((0, 64))
    assert hazard_points([step(writes=[a]), step(reads=[a])]) == [1]  # read after write
    assert hazard_points([step(reads=[a]), step(writes=[a])]) == [1]  # write after read
    assert hazard_points([step(writes=[a]), step(writes=[a])]) == [1]  # write after write
    assert hazard_points([step(reads=[a]), step(reads=[a])]) == []
    assert hazard_points([step(writes=[a]), step(reads=[b], writes=[other])]) == []  # neighbours, another memory
    assert hazard_points([step(writes=[low]), step(writes=[high])]) == []
    assert hazard_points([step(writes=[low]), step(reads=[inside])]) == [1]
    assert hazard_points([step(writes=[inside]), step(reads=[high])]) == [1]
    assert hazard_points([]) == hazard_points([step(reads=[a], writes=[a])]) == []


def test_one_barrier_serves_all_before_it():
    a, b, c, d = parts((0, 64), (64, 64), (128, 64), (192, 64))
    writes = [step(writes=[a]), step(writes=[b])]
    assert hazard_points([*writes, step(reads=[a], writes=[c]), step(reads=[b], writes=[d])]) == [2]
    assert hazard_points([*writes, step(reads=[a], writes=[c]), step(reads=[c])]) == [2, 3]
    assert hazard_points([step(reads=[a]), step(reads=[b]), step(writes=[b]), step(writes=[a])]) == [2]


ADD_ONE = """
#version 450
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint REPEAT = 1;
layout(constant_id = 1) const float STEP = 1.0;
layout(std430, binding = 0) readonly buffer X { float x[]; };
layout(std430, binding = 1) buffer Y { float y[]; };
layout(push_constant) uniform Push { uint count; float bias; };
void main() {
    uint i = gl_GlobalInvocationID.x;
    if (i >= count) return;
    float v = x[i] + bias;
    for (uint k = 0u; k < REPEAT; k++) v = v * 0.5 + v * 0.5 + STEP;
    y[i] = v;
}"""


@pytest.fixture
def add_one(device):
    """add_one(x, y, repeat=1) -> a Dispatch that writes x + repeat to y."""
    device.kernels.add("test_add_one", compile_glsl(ADD_ONE))

    def make(x, y, repeat=1, bias=0.0, step=1.0):
        count = min(x.num_bytes, y.num_bytes) // 4
        return Dispatch(
            "test_add_one",
            (x,),
            (y,),
            (-(-count // 64), 1, 1),
            {"REPEAT": repeat, "STEP": step},
            {"count": count, "bias": bias},
        )

    return make


def test_bindings_are_ranges(device, add_one):
    """A dispatch sees its slices alone, however the memory around them is used."""
    whole = Arena(device, "device", 1 << 16).allocate(16384)
    device.upload(whole, np.zeros(4096, np.float32))
    source, target = whole.slice(1024, 400), whole.slice(8192, 400)
    device.upload(source, np.arange(100, dtype=np.float32))
    Program(device, [add_one(source, target)]).run()
    found = device.download(whole, np.float32, (4096,))
    np.testing.assert_array_equal(found[2048:2148], np.arange(100) + 1)
    np.testing.assert_array_equal(found[256:356], np.arange(100))
    found[256:356] = found[2048:2148] = 0
    assert not found.any()


def test_chain_of_dispatches_runs_in_order_every_time(device, add_one):
    """Forty additions, each on what the one before wrote; replayed with new input."""
    buffers = [Arena(device, "device", 1 << 16).allocate(4096) for _ in range(2)]
    program = Program(device, [add_one(buffers[i % 2], buffers[(i + 1) % 2]) for i in range(40)])
    assert program.barriers == list(range(1, 40))
    for start in (0.0, 5.0, -3.0):
        device.upload(buffers[0], np.full(1024, start, np.float32))
        program.run()
        assert (device.download(buffers[0], np.float32, (1024,)) == start + 40).all()


def test_constants_and_push_values_reach_the_kernel(device, add_one):
    x, y = (Arena(device, "device", 1 << 16).allocate(256) for _ in range(2))
    device.upload(x, np.zeros(64, np.float32))
    for repeat, bias, by in ((3, 0.25, 1.0), (3, -8.0, 1.0), (2, 0.0, -0.5)):
        Program(device, [add_one(x, y, repeat, bias, by)]).run()
        assert (device.download(y, np.float32, (64,)) == bias + repeat * by).all()


def test_timings_tell_long_from_short(device, add_one):
    x, y, z = (Arena(device, "device", 1 << 18).allocate(1 << 16) for _ in range(3))
    device.upload(x, np.zeros(1 << 14, np.float32))
    program = Program(device, [add_one(x, y), add_one(x, z, repeat=20000)], timestamps=True)
    program.run()
    program.run()
    short, long = program.timings()
    assert 0 <= short < long < 60


def test_timings_that_were_not_taken_are_said_to_be(device, add_one):
    x, y = (Arena(device, "device", 1 << 16).allocate(256) for _ in range(2))
    plain, timed = Program(device, [add_one(x, y)]), Program(device, [add_one(x, y)], timestamps=True)
    with pytest.raises(ValueError, match="run the program first"):
        timed.timings()
    plain.run()
    with pytest.raises(ValueError, match="timestamps=True"):
        plain.timings()


def test_timestamps_where_the_queue_counts_none(device, add_one, monkeypatch):
    monkeypatch.setattr(device, "info", replace(device.info, timestamp_bits=0))
    x, y = (Arena(device, "device", 1 << 16).allocate(256) for _ in range(2))
    with pytest.raises(DeviceError, match="no timestamps"):
        Program(device, [add_one(x, y)], timestamps=True)
    Program(device, [add_one(x, y)]).run()


def test_timings_across_the_end_of_the_clock(device, add_one, monkeypatch):
    """A counter of 36 bits starts again at 2^36."""
    x, y = (Arena(device, "device", 1 << 16).allocate(256) for _ in range(2))
    program = Program(device, [add_one(x, y)], timestamps=True)
    program.run()
    monkeypatch.setattr(
        device,
        "info",
        replace(device.info, timestamp_bits=36, limits=replace(device.info.limits, timestamp_period_ns=10.0)),
    )
    monkeypatch.setattr(program, "_timestamps", SimpleNamespace(read=lambda: [(1 << 36) - 40, 60]))
    assert program.timings() == [pytest.approx(1e-6)]


@pytest.fixture
def long_program(device, add_one):
    """Runs for some tenths of a second."""
    x, y = (Arena(device, "device", 1 << 18).allocate(1 << 18) for _ in range(2))
    device.upload(x, np.zeros(1 << 16, np.float32))
    program = Program(device, [add_one(x, y, repeat=1000)])
    program.run()
    begin = time.perf_counter()
    program.run()
    took = max(time.perf_counter() - begin, 1e-4)
    return Program(device, [add_one(x, y, repeat=int(1000 * min(max(0.4 / took, 1), 1e6)))])


def test_other_threads_run_during_a_step(long_program):
    turns, done = [], threading.Event()

    def count():
        while not done.wait(0.002):
            turns.append(time.perf_counter())

    thread = threading.Thread(target=count)
    thread.start()
    begin = time.perf_counter()
    long_program.run()
    end = time.perf_counter()
    done.set()
    thread.join()
    during = [turn for turn in turns if begin < turn < end]
    assert end - begin > 0.05
    assert len(during) >= 5 and during[-1] - during[0] > 0.5 * (end - begin)


def test_step_that_takes_too_long_is_lost(device, long_program):
    with pytest.raises(DeviceLost, match="took too long"):
        long_program._recording.run(limit_ns=1000)
    Recorder(device).finish().run()  # the queue is in order: when this has run, the long one is over
    long_program.run()


# Kernels


def test_kernels_are_made_once(device, add_one):
    x, y = (Arena(device, "device", 1 << 16).allocate(256) for _ in range(2))
    assert device.kernels.get(add_one(x, y)) is device.kernels.get(add_one(y, x, bias=3.0))
    assert device.kernels.get(add_one(x, y)) is not device.kernels.get(add_one(x, y, repeat=2))


def dispatch_of(device, shader, **changes):
    buffer = Arena(device, "device", 4096).allocate(64)
    return replace(
        Dispatch(shader, (buffer,), (buffer,), (1, 1, 1), {"REPEAT": 1, "STEP": 1.0}, {"count": 0, "bias": 0.0}),
        **changes,
    )


@pytest.mark.parametrize(
    "shader, changes, said",
    [
        ("no_such_variant", {}, "no shader variant 'no_such_variant'; see shaders/variants.toml"),
        ("test_needs_more", {}, "lacks telepathy, which shader variant test_needs_more needs"),
        ("test_add_one", {"subgroup_size": 256}, "not 256 \\(test_add_one\\)"),
    ],
)
def test_kernel_that_cannot_be_made_is_named(device, add_one, shader, changes, said):
    device.kernels.add("test_needs_more", compile_glsl(ADD_ONE), requires=["telepathy"])
    with pytest.raises(DeviceError, match=said):
        Program(device, [dispatch_of(device, shader, **changes)])


def test_bindings_and_push_values_are_counted(device, add_one):
    """A kernel is made for as many bindings and push values as its dispatch has; the native layer checks both again."""
    kernel = device.kernels.get(dispatch_of(device, "test_add_one"))
    memory = device.memory(256, "device")
    with pytest.raises(ValueError, match="bindings do not match"):
        _native.OpDispatch(kernel, [(memory, 0, 64)], [1, 1, 1], [0, 0])
    with pytest.raises(ValueError, match="push constants do not match"):
        _native.OpDispatch(kernel, [(memory, 0, 64)] * 2, [1, 1, 1], [0])


def test_glsl_that_does_not_compile_says_where():
    with pytest.raises(DeviceError, match="(?s)GLSL does not compile.*nonsense"):
        compile_glsl("#version 450\nvoid main() { nonsense; }")


def test_spirv_of_every_variant_begins_with_its_magic():
    assert struct.unpack("<I", spirv("rope")[:4])[0] == 0x07230203
    with pytest.raises(DeviceError, match="'rope_9'"):
        spirv("rope_9")


USE = """
import json, time
import numpy as np
from vkbackend.device.selection import open_device
from vkbackend.ops.run import run
device = open_device()
begin = time.perf_counter()
x = run(device, "rms_norm", np.ones((2, 64), np.float32), np.arange(64, dtype=np.float32), None, eps=0.0)
seconds = time.perf_counter() - begin
device.close()
print(json.dumps({"sum": float(x.sum()), "seconds": seconds, "key": device.info.key}))
"""


def test_pipeline_cache_is_kept_and_may_be_damaged(driver, tmp_path):
    """A file per device and driver; what it holds is the driver's, who must refuse what is not."""
    first = run_on(driver, USE, environment={"VKBACKEND_CACHE": str(tmp_path)})
    path = tmp_path / "pipelines" / f"{first['key']}.bin"
    good = path.read_bytes()
    assert len(good) >= 32  # the header that Vulkan prescribes
    flipped = bytearray(good)
    flipped[-40] ^= 4
    for damaged in (good, b"", good[:16], b"\xff" * 4096, good[:32] + b"\xff" * 4096, bytes(flipped)):
        path.write_bytes(damaged)
        assert run_on(driver, USE, environment={"VKBACKEND_CACHE": str(tmp_path)})["sum"] == first["sum"] == 4032.0
    assert not [left for left in path.parent.iterdir() if left != path], "temporary files were left behind"


def test_closed_device_frees_its_memory(device):
    other = Device(device.info, force_discrete=True)
    buffer = Arena(other, "device", 4096).allocate(64)
    other.upload(buffer, np.zeros(64, np.uint8))
    other.download(buffer, np.uint8, (64,))
    assert other.allocated_bytes == 2 * PIECE_BYTES + READBACK_BYTES + 4096
    del buffer
    other.close()
    assert other.allocated_bytes == 0


def test_what_a_texel_buffer_cannot_hold_is_read_as_storage(device):
    """Vulkan promises 65,536 elements; a device that allows no more takes the variants without texel buffers for
    larger inputs.
    """
    limits = replace(device.info.limits, max_texel_buffer_elements=65536)
    small = Device(replace(device.info, limits=limits))
    try:
        assert small.info.flavors[0] != "texel"
        if "texel" not in small.info.flavors:
            missing("a device with subgroup features")
        small.flavor = "texel"
        for rows, shader in ((1, "softmax_texel"), (8, "softmax_subgroup")):
            x = np.random.default_rng(0).standard_normal((rows, 49152), np.float32)
            prepared = prepare(small, OPS["softmax"], [x], {})
            program = Program(small, prepared.dispatches)
            assert [dispatch.shader for dispatch in program.dispatches] == [shader]
            program.run()
            np.testing.assert_allclose(prepared.results(small)[0], reference("softmax", x), rtol=1e-4, atol=1e-6)
    finally:
        small.close()

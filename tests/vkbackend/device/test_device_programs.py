"""An open device: programs with derived barriers, kernels and their caches, errors."""

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
from vkbackend.device.context import Device
from vkbackend.device.dispatch import Dispatch, Program, Recorder, hazard_points
from vkbackend.device.failures import translated
from vkbackend.device.shaders import compile_glsl, spirv
from vkbackend.errors import DeviceError, DeviceLost, OutOfMemory
from vkbackend.ops import OPS
from vkbackend.ops.run import prepare, reference

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

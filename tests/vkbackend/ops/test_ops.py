"""Every kernel variant of every op against its numpy twin on each driver, and that the check can fail."""

import early_checks
import numpy as np
import pytest

from vkbackend.check import check
from vkbackend.device.dispatch import Program
from vkbackend.device.run_shader import run_shader
from vkbackend.device.shaders import compile_glsl, variants
from vkbackend.ops import OPS, elementwise
from vkbackend.ops.packed import FORMATS, PackedMatrix
from vkbackend.ops.q8_cache import Q8Cache
from vkbackend.ops.run import prepare, reference, run


@pytest.fixture(scope="module")
def checked():
    """driver -> what tests/support/run_check.py found on it."""
    return early_checks.results()


@pytest.mark.timeout(early_checks.SECONDS + 100)
def test_every_variant_agrees_with_its_twin(driver, checked):
    failed = [
        f"{found['op']} {found['case']} {found['kernel']}: {found['worst']:.3g} {found['error']}"
        for found in checked[driver]["results"]
        if not found["passed"]
    ]
    assert not failed, checked[driver]["device"]


def test_no_case_was_left_out(driver, checked):
    """Each op's whole table ran, matmul with every format and tile of every flavor; but for what the device lacks
    the feature of.
    """
    found = checked[driver]
    seen = {(each["op"], each["case"]) for each in found["results"]}
    missing = set(found["missing"])
    assert missing <= {
        name for name in variants() if name.endswith("_float16") or "_matrix_" in name or name == "fma_f16"
    }, "both drivers have everything else"
    without_float16 = "matmul_f16_tile_float16" in missing
    assert seen == {
        (op.name, case.label)
        for op in OPS.values()
        for case in op.cases
        if not (without_float16 and case.label.endswith("float16"))
    }
    kernels = {name.split("/")[0] for each in found["results"] for name in each["kernel"].split(", ")}
    assert set(found["flavors"]) == {"base", "subgroup", "texel"}
    measuring = ("bandwidth_", "fma_", "load_floor_")  # of `bench`; no op uses them
    assert kernels == {name for name in variants() if not name.startswith(measuring)} - missing


def test_case_tables_reach_every_format_and_odd_sizes():
    for op in ("matmul", "embed"):
        assert {case.label.split()[0] for case in OPS[op].cases} == set(FORMATS)
    for op in OPS.values():
        assert op.cases, f"{op.name} has no cases"


def failures(device, only):
    return [result for result in check(device, only) if not result.passed]


def test_check_finds_a_wrong_kernel(device):
    """A kernel that forgets to add in the last row: every case fails, and the kernel is named."""
    wrong = """
        #version 450
        layout(local_size_x = 64) in;
        layout(std430, binding = 0) readonly buffer A { vec4 a[]; };
        layout(std430, binding = 1) readonly buffer B { vec4 b[]; };
        layout(std430, binding = 2) writeonly buffer Y { vec4 y[]; };
        layout(push_constant) uniform Push { uint n4, a_offset, a_stride, b_offset, b_stride; float parameter; };
        void main() {
            uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
            bool is_last = row + 1u == gl_NumWorkGroups.y;
            vec4 addend = is_last ? vec4(0.0) : b[b_offset + row * b_stride + i];
            if (i < n4) y[row * n4 + i] = a[a_offset + row * a_stride + i] + addend;
        }"""
    device.kernels.clear()
    device.kernels.add("add_base", compile_glsl(wrong))
    try:
        found = failures(device, "add")
    finally:
        device.kernels.clear()
    assert {result.kernel for result in found} == {"add_base"}
    assert {result.case for result in found} == {case.label for case in OPS["add"].cases}
    assert all(result.worst > 1 for result in found)
    assert failures(device, "add") == []


def test_check_finds_what_was_not_written(device):
    """Outputs begin as NaN, so a kernel that does nothing cannot pass by what memory happened to hold."""
    idle = """
        #version 450
        layout(local_size_x = 64) in;
        layout(std430, binding = 0) readonly buffer X { float x[]; };
        layout(std430, binding = 1) readonly buffer R { int rows[]; };
        layout(std430, binding = 2) writeonly buffer Y { float y[]; };
        layout(push_constant) uniform Push { uint n4, x_offset, x_stride; };
        void main() { if (n4 == 0u) y[0] = x[0] + float(rows[0]); }"""
    device.kernels.clear()
    device.kernels.add("gather_rows", compile_glsl(idle))
    try:
        found = failures(device, "gather_rows")
    finally:
        device.kernels.clear()
    assert len(found) == len(OPS["gather_rows"].cases) and all(result.worst == np.inf for result in found)


def test_check_finds_a_wrong_twin(device, monkeypatch):
    """A twin off by a millionth of its size passes, by a thousandth it does not."""
    import dataclasses

    for factor, expected in ((1 + 1e-6, True), (1 + 1e-3, False)):
        op = dataclasses.replace(
            OPS["scale"], reference=lambda a, *, factor, by=factor: elementwise.scale(a, factor=factor) * np.float32(by)
        )
        monkeypatch.setitem(OPS, "scale", op)
        assert (failures(device, "scale") == []) == expected


def test_check_tells_a_kernel_that_cannot_be_made(device):
    """An error is a result like another, and the rest still runs."""
    device.kernels.clear()
    device.kernels.add("rope", compile_glsl("#version 450\nvoid main() {}"), requires=["no_such_feature"])
    try:
        found = list(check(device, "rope"))
    finally:
        device.kernels.clear()
    assert found and all("no_such_feature" in result.error and not result.passed for result in found)


def test_check_leaves_the_device_as_it_was(device):
    before = device.flavor, device.lanes
    list(check(device, "gather_rows"))
    assert (device.flavor, device.lanes) == before


@pytest.mark.parametrize("op", ["matmul", "rms_norm", "attention", "softmax"])
def test_variants_sum_in_the_same_order_or_say_so(device, op):
    """matmul promises the same bits from every tile; the others one variant per device, run twice, the same bits."""
    case = OPS[op].cases[0] if op != "matmul" else OPS[op].cases[1]
    inputs = case.make(np.random.default_rng(2))
    results = [
        run(device, op, *inputs, variant=variant, **case.attrs) for variant in OPS[op].variants(device, inputs) * 2
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.uint32), results[0].view(np.uint32))


@pytest.mark.parametrize("flavor", ["base", "subgroup", "texel"])
def test_split_attention_has_the_same_bits_in_every_run(device, monkeypatch, flavor):
    """Several groups share a head, and whichever is done last puts together what all left: one recording, run again
    and again, with memory that holds NaN before each run, so that whoever reads too early shows. All counts are zero
    afterwards.
    """
    monkeypatch.setattr(device, "flavor", flavor)
    case = next(case for case in OPS["attention"].cases if case.label == "many chunks")
    inputs = case.make(np.random.default_rng(3))
    inputs[3][0] = -1  # an unused slot: nobody counts there
    expected = run(device, "attention", *inputs, **case.attrs)
    for splits in (2, 3, 7):
        prepared = prepare(device, OPS["attention"], inputs, case.attrs, {"splits": splits})
        (dispatch,) = prepared.dispatches
        y, parts, counts = dispatch.writes
        program = Program(device, [dispatch])
        for _ in range(20):
            for buffer in (y, parts):
                device.upload(buffer, np.full(buffer.num_bytes // 4, np.nan, np.float32))
            program.run()
            (found,) = prepared.results(device)
            np.testing.assert_array_equal(found[1:].view(np.uint32), expected[1:].view(np.uint32))
            assert np.isnan(found[0]).all()
            assert not device.download(counts, np.uint32, (counts.num_bytes // 4,)).any()


@pytest.mark.parametrize("flavor", ["base", "subgroup", "texel"])
@pytest.mark.parametrize("label", ["decode", "decode, q8_0", "halves and norms, q8_0", "an odd number of blocks, q8_0"])
def test_decode_attention_is_split_heads_and_attention(device, monkeypatch, flavor, label):
    """Bit for bit, so that a sequence may go from one to the other; the caches, too."""
    monkeypatch.setattr(device, "flavor", flavor)
    case = next(case for case in OPS["decode_attention"].cases if case.label == label)
    inputs = case.make(np.random.default_rng(6))
    rotation = {name: case.attrs[name] for name in ("n_rot", "pairing", "eps")}
    q, *caches = run(device, "split_heads", *inputs, **rotation)
    y = run(
        device,
        "attention",
        q,
        *caches,
        *inputs[1:4],
        **{name: value for name, value in case.attrs.items() if name not in rotation},
    )
    found, *found_caches = run(device, "decode_attention", *inputs, **case.attrs)
    np.testing.assert_array_equal(found.view(np.uint32), y.view(np.uint32))
    for left, right in zip(found_caches, caches):
        if isinstance(left, Q8Cache):
            np.testing.assert_array_equal(left.packed(), right.packed())
        else:
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("flavor", ["base", "subgroup", "texel"])
def test_token_bits_do_not_depend_on_their_neighbours(device, monkeypatch, flavor):
    """A row of x alone gives the bits that it gives among others, in every tile of every flavor."""
    monkeypatch.setattr(device, "flavor", flavor)
    case = next(case for case in OPS["matmul"].cases if case.label.startswith("q4_1 7x"))
    inputs = case.make(np.random.default_rng(5))
    x, weight, norm, residual, _ = inputs
    for variant in OPS["matmul"].variants(device, inputs):
        alone = np.concatenate(
            [
                run(
                    device,
                    "matmul",
                    x[row : row + 1],
                    weight,
                    norm,
                    residual[row : row + 1],
                    variant={"slices": variant.get("slices")},
                )
                for row in range(len(x))
            ]
        )
        np.testing.assert_array_equal(
            run(device, "matmul", *inputs, variant=variant).view(np.uint32), alone.view(np.uint32)
        )


@pytest.mark.parametrize("name", ["q4_1", "q2_k", "q8_0"])  # nibbles, pairs of bits, bytes
def test_codes_have_the_same_bits_in_place_and_as_bytes(device, monkeypatch, name):
    """Kernels for llvmpipe (texel) leave codes at their position in a word, all others move them to bytes first."""
    rng = np.random.default_rng(4)
    inputs = [rng.standard_normal((1, 512), np.float32), PackedMatrix.random(rng, name, 64, 512), None, None, None]
    results = []
    for flavor in ("texel", "subgroup", "base"):
        monkeypatch.setattr(device, "flavor", flavor)
        found = run(device, "matmul", *inputs, variant={"tile": (1, 1), "slices": 1})
        rows = run(device, "embed", np.arange(64, dtype=np.int32), inputs[1])
        results.append((found.tobytes(), rows.tobytes()))
    assert results[0] == results[1] == results[2]


def test_twins_leave_their_inputs_alone():
    for op in OPS.values():
        case = op.cases[-1]
        inputs, again = case.make(np.random.default_rng(4)), case.make(np.random.default_rng(4))
        reference(op.name, *inputs, **case.attrs)
        for left, right in zip(inputs, again):
            if isinstance(left, np.ndarray):
                np.testing.assert_array_equal(left, right, op.name)


BROADCAST = """
#version 450
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
layout(std430, binding = 0) readonly buffer X { uint x[]; };
layout(std430, binding = 1) writeonly buffer Y { uint y[]; };
void main() { for (uint lane = 0u; lane < LANES; lane++) y[LANE * LANES + lane] = group_broadcast_uint(x[LANE], lane); }
"""


def test_integers_are_broadcast_as_integers(device):
    """Small ones would be denormal floats, others NaNs. No driver at hand flushes those, so the code is looked at,
    too: it never reads the bits of an integer as those of a float (OpBitcast, 124).
    """
    values = np.array(
        [0, 1, 2, 1000, 0x7FFFFF, 0x800000, 0x7F800001, 0x7FC00000, 0xFF812345, 0xFFFFFFFF] + list(range(3, 25)),
        np.uint32,
    )
    (found,) = run_shader(device, BROADCAST, inputs=[values], outputs=[((32, 32), "uint32")], constants={0: 32})
    np.testing.assert_array_equal(found, np.broadcast_to(values, (32, 32)))
    code = np.frombuffer(compile_glsl(BROADCAST), np.uint32)
    at, used = 5, set()
    while at < len(code):
        used.add(int(code[at] & 0xFFFF))
        at += int(code[at] >> 16)
    assert 54 in used and 124 not in used  # OpFunction, so that the walk is known to work

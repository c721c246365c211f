"""A shader of the user's: what it declares is compared with what is given, and numbers reach it unchanged or not at
all.
"""

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from vulkan_drivers import run_on

from vkbackend.device import dispatch, spirv_reader
from vkbackend.device.run_shader import run_shader
from vkbackend.device.shaders import compile_glsl
from vkbackend.errors import DeviceError, DeviceLost

HEAD = "#version 450\n#extension GL_EXT_shader_explicit_arithmetic_types : enable\nlayout(local_size_x = 4) in;\n"
X = np.arange(4, dtype=np.float32)
COPY = (
    HEAD
    + """layout(std430, binding = 0) readonly buffer X { float x[]; };
layout(std430, binding = 1) buffer Y { float y[]; };
void main() { y[gl_GlobalInvocationID.x] = x[gl_GlobalInvocationID.x] + 1; }"""
)
ONE_OUT = HEAD + "layout(std430, binding = 0) buffer Y {{ {type} y[]; }};\n{more}\nvoid main() {{ {body} }}"
F32 = [((4,), "float32")]


def shader(body="y[0] = 1;", more="", type="float"):
    return ONE_OUT.format(body=body, more=more, type=type)


def test_a_shader_runs(device):
    (y,) = run_shader(device, COPY, inputs=[X], outputs=F32)
    assert (y == X + 1).all()


@pytest.mark.parametrize(
    "declared, use, said",
    [
        (
            "layout(std430, set = 1, binding = 0) buffer B { float b[]; };",
            "b[0] = 1",
            r"set 1, binding 0 \(B\) is outside of set 0.*given: binding 0: outputs",
        ),
        (
            "layout(std430, binding = 3) buffer B { float b[]; };",
            "b[0] = 1",
            r"set 0, binding 3 \(B\) is declared by the shader, but no array is given",
        ),
        ("layout(std430, binding = 0) buffer B { float b[]; };", "b[0] = 1", "set 0, binding 0 .* is declared twice"),
        (
            "layout(std140, binding = 1) uniform B { float b; };",
            "y[0] = b",
            r"set 0, binding 1 \(B\) is a uniform buffer",
        ),
        (
            "layout(binding = 1) uniform sampler2D s;",
            "y[0] = texelFetch(s, ivec2(0), 0).x",
            r"binding 1 \(s\) is a sampled image",
        ),
        (
            "layout(binding = 1, r32f) uniform image2D i;",
            "imageStore(i, ivec2(0), vec4(1))",
            r"binding 1 \(i\) is an image",
        ),
        ("layout(binding = 1) uniform samplerBuffer s;", "y[0] = texelFetch(s, 0).x", r"binding 1 \(s\) is a"),
        (
            "layout(binding = 1, r32f) uniform imageBuffer i;",
            "imageStore(i, 0, vec4(1))",
            r"binding 1 \(i\) is a texel buffer",
        ),
        (
            "layout(std430, binding = 1) buffer B { float b[]; } bs[2];",
            "bs[0].b[0] = 1",
            r"binding 1 \(bs\) is an array of descriptors",
        ),
    ],
)
def test_what_cannot_be_bound_is_named(device, declared, use, said):
    with pytest.raises(DeviceError, match=said):
        run_shader(device, shader(use + ";", declared), outputs=F32)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"inputs": [X], "outputs": []}, "binding 1 .Y. is declared by the shader, but no array is given"),
        ({"inputs": [X, X], "outputs": F32}, r"set 0, binding 2 is not declared by the shader, but outputs\[0\]"),
        ({"inputs": [], "outputs": F32 * 2}, "readonly in the shader, and outputs.0. is an output"),
        ({"inputs": [X.astype(np.float64)], "outputs": F32}, r"holds float32, inputs\[0\] is float64"),
        ({"inputs": [X.astype(np.int32)], "outputs": F32}, r"holds float32, inputs\[0\] is int32"),
        ({"inputs": [X], "outputs": [((4,), "uint32")]}, r"holds float32, outputs\[0\] is uint32"),
        ({"inputs": [[1.0, 2.0]], "outputs": F32}, r"inputs\[0\] is list; it must be a numpy array"),
        ({"inputs": [None]}, "NoneType; it must be a numpy"),
        ({"inputs": X}, "inputs is ndarray; it must be a list"),
        ({"inputs": 5}, "inputs is int"),
        ({"inputs": [X.astype(object)]}, "dtype object"),
        ({"inputs": [np.array(["a"])]}, "dtype <U1"),
        ({"inputs": [X[:0]], "outputs": F32}, r"shape \(0,\): it is empty"),
        ({"outputs": [4]}, r"outputs\[0\] is 4; it must be \(shape, dtype\)"),
        ({"outputs": [((4,), "floatx")]}, "is not a dtype"),
        ({"outputs": [((-4,), "float32")]}, "sizes must be positive"),
        ({"outputs": [((4,), None)]}, "is not a dtype"),
        ({"groups": 2}, "groups is 2; it must be three"),
        ({"groups": (1, 1)}, "must be three"),
        ({"groups": (1.5, 1, 1)}, r"groups\[0\] is 1.5"),
        ({"groups": "111"}, "must be three"),
        ({"inputs": [X], "outputs": F32, "groups": (0, 1, 1)}, "groups has 0 workgroups in x; .* allows 1 to"),
        ({"inputs": [X], "outputs": F32, "groups": (1, -1, 1)}, "-1 workgroups in y"),
        ({"inputs": [X], "outputs": F32, "groups": (1, 1, 2**40)}, f"{2**40} workgroups in z"),
        ({"inputs": [X], "outputs": F32, "push": [1]}, "push has 1 values, but the shader declares no push"),
        ({"inputs": [X], "outputs": F32, "push": None}, "push is NoneType"),
        ({"inputs": [X], "outputs": F32, "constants": {0: 1}}, "no specialization constant 0; it has: none"),
        ({"inputs": [X], "outputs": F32, "constants": [1]}, "constants is list"),
        ({"target": "vulkan9"}, "target is 'vulkan9'"),
        ({"inputs": [X], "outputs": F32, "subgroup_size": 3}, "subgroup_size is 3"),
        ({"subgroup_size": "8"}, "subgroup_size is '8'"),
        ({"inputs": [np.ma.array(X, mask=[0, 1, 0, 0])]}, r"inputs\[0\] is a masked array"),
        ({"inputs": [X], "outputs": F32, "push": np.ma.array([1], mask=[1])}, "push is a masked array"),
        ({"inputs": [X], "outputs": F32, "push": [np.ma.array([1], mask=[1])]}, "push is a masked array"),
        ({"groups": np.ma.array([1, 1, 1], mask=[1, 0, 0])}, "groups is a masked array"),
    ],
)
def test_wrong_arguments_are_sentences(device, arguments, said):
    with pytest.raises(DeviceError, match=said):
        run_shader(device, COPY, **arguments)
    assert run_shader(device, COPY, inputs=[X], outputs=F32)[0][3] == 4


@pytest.mark.parametrize(
    "array",
    [
        np.arange(8, dtype=np.float32)[::2],
        X.astype(">f4"),
        np.asfortranarray(np.arange(4, dtype=np.float32).reshape(2, 2)),
    ],
)
def test_arrays_in_any_order_keep_their_numbers(device, array):
    (y,) = run_shader(device, COPY, inputs=[array], outputs=F32)
    assert y.tolist() == (array + 1).reshape(-1).tolist()


def test_a_shader_sees_as_many_elements_as_the_array_has(device):
    (y,) = run_shader(device, shader("y[0] = y.length();", type="uint"), outputs=[((1,), "uint32")])
    assert y[0] == 1


def test_gaps_between_elements_must_be_given(device):
    source = (
        HEAD
        + "layout(std430, binding = 0) buffer Y { vec3 y[]; };\nvoid main() { y[gl_LocalInvocationID.x] = vec3(1); }"
    )
    with pytest.raises(DeviceError, match="elements of 12 bytes that are 16 bytes apart.*give rows of 4"):
        run_shader(device, source, outputs=[((4, 3), "float32")])
    assert run_shader(device, source, outputs=[((4, 4), "float32")])[0][:, :3].all()


PUSH = """struct Inner { float a; vec2 b; };
layout(push_constant) uniform P { uint u; int i; float f; vec3 v; uint many[3]; Inner inner; } p;"""
SHOW = "y[0] = p.u; y[1] = p.i; y[2] = p.f; y[3] = p.v.z; y[4] = p.many[2]; y[5] = p.inner.b.y;"
GOOD = [7, -3, 1.5, [1, 2, 4.25], [8, 9, 10], [0, [1, 6.5]]]


def test_push_constants_are_packed_by_their_own_types(device):
    (y,) = run_shader(device, shader(SHOW, PUSH), outputs=[((6,), "float32")], push=GOOD)
    assert y.tolist() == [7, -3, 1.5, 4.25, 10, 6.5]
    (y,) = run_shader(
        device,
        shader("y[0] = p.u;", "layout(push_constant) uniform P { uint u; } p;", "uint"),
        outputs=[((1,), "uint32")],
        push=[2**32 - 1],
    )
    assert y[0] == 2**32 - 1


@pytest.mark.parametrize(
    "at, value, said",
    [
        (0, 2**32 + 5, r"push\[0\] is 4294967301; it must be of type uint32"),
        (0, -1, "is -1; it must be of type uint32"),
        (0, 1.5, "1.5; it must be of type uint32"),
        (1, 2**31, "must be of type int32"),
        (1, float("nan"), "nan; it must be of type int32"),
        (1, float("inf"), "inf; it must be of type int32"),
        (2, 1e39, "too large for a float32"),
        (2, 2**24 + 1, "does not hold exactly"),
        (2, "1", r"push\[2\] is '1' \(str\); it must be a number"),
        (2, None, "must be a number"),
        (2, 10**400, "too large"),
        (3, [1, 2], "push has 11 values, the shader declares 12"),
        (4, [1, 2, 3, 4], "push has 13 values"),
    ],
)
def test_numbers_that_do_not_fit_are_errors(device, at, value, said):
    with pytest.raises(DeviceError, match=said):
        run_shader(device, shader(SHOW, PUSH), outputs=[((6,), "float32")], push=GOOD[:at] + [value] + GOOD[at + 1 :])


def test_push_constants_of_64_bits(device):
    push = "layout(push_constant) uniform P { uint64_t a; double b; } p;"
    (y,) = run_shader(
        device,
        shader("y[0] = p.a; y[1] = uint64_t(p.b);", push, "uint64_t"),
        outputs=[((2,), "uint64")],
        push=[2**63 + 1, 3.0],
    )
    assert y.tolist() == [2**63 + 1, 3]


@pytest.mark.parametrize(
    "constants, said",
    [
        ({1: 1}, r"no specialization constant 1; it has: 0 \(n\)"),
        ({0: -1}, "must be of type uint32"),
        ({0: 1.5}, "must be of type uint32"),
        ({0: 1, "n": 2}, "constants gives n twice: as 0 and as 'n'"),
        ({0: np.ma.array(1, mask=True)}, r"constants\[0\] is a masked array"),
    ],
)
def test_specialization_constants_are_checked(device, constants, said):
    source = shader("y[0] = n;", "layout(constant_id = 0) const uint n = 3;")
    assert run_shader(device, source, outputs=F32, constants={0: 9})[0][0] == 9
    with pytest.raises(DeviceError, match=said):
        run_shader(device, source, outputs=F32, constants=constants)


def test_limits_are_named_before_anything_is_submitted(device, monkeypatch):
    limits = device.info.limits
    most = limits.max_workgroup_invocations
    monkeypatch.setattr(dispatch.Program, "run", lambda self: pytest.fail("submitted"))
    for more, body, changes, push, said in (
        (
            "layout(push_constant) uniform P { float v[100]; } p;",
            "y[0] = p.v[0];",
            {},
            range(100),
            "push constants take 400 bytes; .* at most",
        ),
        (
            f"shared float s[{limits.max_shared_memory_bytes}];",
            "s[0] = 1; y[0] = s[0];",
            {},
            (),
            "bytes of shared memory",
        ),
        ("", "y[0] = 1;", {"max_storage_buffer_range": 8}, (), "takes 16 bytes; .* allows at most 8"),
        ("", "y[0] = 1;", {"max_storage_buffers": 0}, (), "allows at most 0"),
        ("", "y[0] = 1;", {"max_workgroup_size": (2, 1, 1)}, (), "local_size_x is 4; .* allows 1 to 2"),
        ("", "y[0] = 1;", {"max_workgroup_invocations": 3}, (), "has 4 invocations; .* at most 3"),
    ):
        changes = {"max_push_constants_bytes": 256} | changes
        monkeypatch.setattr(device, "info", replace(device.info, limits=replace(limits, **changes)))
        with pytest.raises(DeviceError, match=said):
            run_shader(device, shader(body, more), outputs=F32, push=push)
    monkeypatch.setattr(device, "info", replace(device.info, limits=limits))
    with pytest.raises(DeviceError, match=f"local_size_x is {2 * most}|has {2 * most} invocations"):
        run_shader(
            device,
            shader().replace("layout(local_size_x = 4)", "layout(local_size_x_id = 2)"),
            outputs=F32,
            constants={2: 2 * most},
        )


@pytest.mark.parametrize(
    "feature, more, body, target",
    [
        ("float64", "", "double d = y[0]; y[0] = float(d * d);", "vulkan1.1"),
        ("float16", "", "float16_t h = float16_t(y[0]); y[0] = float(h * h);", "vulkan1.1"),
        (
            "subgroup_arithmetic",
            "#extension GL_KHR_shader_subgroup_arithmetic : enable",
            "y[0] = subgroupAdd(1.0);",
            "vulkan1.1",
        ),
    ],
)
def test_features_that_the_device_lacks_are_named(device, monkeypatch, feature, more, body, target):
    monkeypatch.setattr(device, "info", replace(device.info, features=device.info.features - {feature}))
    with pytest.raises(DeviceError, match=f"lacks {feature}, which the shader needs"):
        run_shader(device, shader(body, more), outputs=F32, target=target)


def test_capabilities_that_are_not_enabled_are_named(device, monkeypatch):
    more = "#extension GL_EXT_shader_atomic_int64 : enable"
    with pytest.raises(DeviceError, match="capability Int64Atomics, which is not enabled"):
        run_shader(device, shader("atomicAdd(y[0], 1ul);", more, "uint64_t"), outputs=[((4,), "uint64")])
    monkeypatch.setattr(device, "info", replace(device.info, api=(1, 1, 0)))
    with pytest.raises(DeviceError, match=r"SPIR-V 1.6; .* supports up to 1.3"):
        run_shader(device, shader(), outputs=F32, target="vulkan1.3")


def test_a_lost_device_is_opened_again_by_the_next_call(discrete_device, monkeypatch):
    first = discrete_device._context
    monkeypatch.setattr(dispatch.Recording.wait, "__defaults__", (1,))
    source = shader(
        "float s = 0; for (uint i = 0; i < n; i++) s += sin(s + i); y[0] = s;",
        "layout(constant_id = 0) const uint n = 3;",
    )
    with pytest.raises(DeviceLost, match="took too long"):
        run_shader(discrete_device, source, outputs=F32, groups=(16, 1, 1), constants={0: 60_000_000})  # about a second
    monkeypatch.undo()
    assert discrete_device.is_lost
    assert run_shader(discrete_device, COPY, inputs=[X], outputs=F32)[0][0] == 1
    assert discrete_device._context is not first and not discrete_device.is_lost


@pytest.mark.parametrize("source", [b"\xef\xbb\xbf", "\ufeff", "// na\xefve \u6f22\n", b"// na\xefve\n", "// \ud800\n"])
def test_any_bytes_of_glsl_compile_or_are_errors(source):
    rest = COPY if isinstance(source, str) else COPY.encode()
    newline = "\r\n" if isinstance(source, str) else b"\r\n"
    for text in (source + rest, source + rest.replace(newline[1:], newline)):
        try:
            assert compile_glsl(text)[:4] == b"\x03\x02\x23\x07"
        except DeviceError as error:
            assert "does not compile" in str(error)
    with pytest.raises(DeviceError, match="does not compile"):
        compile_glsl(source + rest + (" \udcff \u6f22" if isinstance(source, str) else b" \xff"))


@pytest.mark.parametrize(
    "source, said",
    [(COPY + "\0", "is NUL"), ("", "does not compile"), (None, "the GLSL is NoneType"), (7, "the GLSL is int")],
)
def test_what_is_no_glsl_is_named(source, said):
    with pytest.raises(DeviceError, match=said):
        compile_glsl(source)


def test_a_byte_order_mark_is_passed_over(device):
    assert run_shader(device, "\ufeff" + COPY, inputs=[X], outputs=F32)[0][0] == 1


def test_a_missing_compiler_is_named(monkeypatch):
    def gone(*_, **__):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(subprocess, "run", gone)
    with pytest.raises(DeviceError, match="glslangValidator cannot be run.*apt-get install"):
        compile_glsl(COPY)


def test_damaged_spirv_is_never_more_than_an_error():
    good, rng = compile_glsl(shader(SHOW, PUSH)), np.random.default_rng(0)
    for _ in range(1500):
        code = bytearray(good)
        for at in rng.integers(0, len(code), 3):
            code[at] = rng.integers(256)
        try:
            spirv_reader.read(bytes(code[: rng.integers(0, len(code))] if rng.random() < 0.2 else code))
        except DeviceError:
            pass


def test_the_entry_point_is_main(monkeypatch, device):
    code = compile_glsl(COPY).replace(b"main", b"niam")
    monkeypatch.setattr("vkbackend.device.run_shader.compile_glsl", lambda *_: code)
    with pytest.raises(DeviceError, match="no compute entry point main; it has: niam"):
        run_shader(device, "", inputs=[X], outputs=F32)


def test_every_driver_says_the_same(driver):
    program = f"""
import json, numpy as np
from vkbackend.device.run_shader import run_shader
from vkbackend.device.selection import open_device
device, said = open_device(), []
for change in ("set = 1, binding = 0", "binding = 5"):
    try:
        source = {COPY!r}.replace("binding = 0", change)
        run_shader(device, source, inputs=[np.ones(4, "f4")], outputs=[((4,), "float32")])
    except Exception as error:
        said.append(type(error).__name__)
y, = run_shader(device, {COPY!r}, inputs=[np.ones(4, "f4")], outputs=[((4,), "float32")])
print(json.dumps([said, y.tolist()]))
"""
    assert run_on(driver, program) == [["DeviceError"] * 2, [2.0] * 4]

"""Shader sources: constants by name, what a dispatch refuses when it is made, and the form of the sources."""

import re
import shutil
import subprocess
import sysconfig

import numpy as np
import pytest
from vulkan_drivers import missing

from vkbackend.device import shaders
from vkbackend.device.dispatch import Dispatch
from vkbackend.device.interface import Interface, as_word
from vkbackend.device.run_shader import run_shader
from vkbackend.errors import DeviceError

build = shaders._builder()

GLSL = """
layout(constant_id = 3) const uint ROWS = 4;  // layout(constant_id = 9) const uint OLD = 1;
layout(constant_id = 0) const bool HAS_NORM = false;
/* layout(push_constant) uniform Old { uint gone; }; */
layout(push_constant, std430) uniform Push {
    uint num_rows, num_columns;  // of the matrix
    float eps;
    int first;
};
"""


def test_constants_are_read_from_glsl():
    constants, push = build.constants_of(GLSL)
    assert constants == {"ROWS": (3, "uint"), "HAS_NORM": (0, "bool")}
    assert list(push.items()) == [("num_rows", "uint"), ("num_columns", "uint"), ("eps", "float"), ("first", "int")]


@pytest.mark.parametrize(
    "glsl, said",
    [
        ("layout(push_constant) uniform Push { vec2 size; };", "vec2 size"),
        ("layout(push_constant) uniform Push { uint sizes[4]; };", r"uint sizes\[4\]"),
        ("layout(push_constant) uniform Push { bool flag; };", "bool flag"),
        ("layout(constant_id = 0) const double STEP = 1.0;", "STEP"),
        ("layout(constant_id = FIRST) const uint STEP = 1;", "STEP"),
    ],
)
def test_constants_that_are_not_words_are_refused(glsl, said):
    with pytest.raises(ValueError, match=said):
        build.constants_of(glsl)


def test_constants_of_includes_count_and_those_under_a_define_are_refused(tmp_path):
    (tmp_path / "part.glsl").write_text("layout(constant_id = 1) const uint LANES = 8;\n")
    (tmp_path / "whole.comp").write_text('#include "part.glsl"\n#ifdef FAST\nfloat a;\n#endif\n' + GLSL)
    assert set(build.source_constants(tmp_path / "whole.comp")[0]) == {"LANES", "ROWS", "HAS_NORM"}
    (tmp_path / "sometimes.comp").write_text("#ifdef FAST\nlayout(constant_id = 1) const uint LANES = 8;\n#endif\n")
    with pytest.raises(ValueError, match="sometimes.comp: constants .* outside of #if"):
        build.source_constants(tmp_path / "sometimes.comp")


def test_every_variant_has_the_constants_of_its_source():
    found = shaders.variants()
    assert found["rms_norm_base"]["constants"].keys() == {"LANES", "HAS_RESIDUAL"}
    assert list(found["embed_q4_0"]["push"]) == ["num_blocks", "first_row", "num_rows", "scale"]
    for name, variant in found.items():
        numbers = [number for number, _ in variant["constants"].values()]
        assert len(set(numbers)) == len(numbers), f"{name}: two constants share a constant_id"


@pytest.mark.parametrize(
    "value, glsl_type, word",
    [
        (1, "uint", 1),
        (2**32 - 1, "uint", 2**32 - 1),
        (-1, "int", 0xFFFFFFFF),
        (True, "bool", 1),
        (np.bool_(False), "bool", 0),
        (np.int64(7), "uint", 7),
        (1.0, "float", 0x3F800000),
        (1, "float", 0x3F800000),
        (np.float32(-2), "float", 0xC0000000),
        (-1, "uint", None),
        (2**32, "uint", None),
        (2**31, "int", None),
        (1.0, "uint", None),
        (True, "uint", None),
        (1, "bool", None),
        (True, "float", None),
        ("1", "uint", None),
        (None, "float", None),
    ],
)
def test_words_of_values(value, glsl_type, word):
    assert as_word(value, glsl_type) == word


NAMES = Interface("scale", {"ROWS": (3, "uint"), "HAS_NORM": (0, "bool")}, {"n": "uint", "factor": "float"})


def test_names_become_words_in_the_order_of_the_shader():
    assert NAMES.constant_words({"HAS_NORM": True, "ROWS": 2}) == ((3, 2), (0, 1))
    assert NAMES.push_words({"factor": 1.0, "n": 5}) == (5, 0x3F800000)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"n": 1}, "shader scale: push constant factor has no value; required: n, factor"),
        ({"n": 1, "factor": 2.0, "more": 3}, "shader scale has no push constant more; it has: n, factor"),
        ({"n": 1.5, "factor": 2.0}, "shader scale: n is 1.5; it must be of type uint"),
        ({"n": -1, "factor": 2.0}, "shader scale: n is -1; it must be of type uint"),
    ],
)
def test_wrong_names_and_values_are_named(values, said):
    with pytest.raises(DeviceError) as caught:
        NAMES.push_words(values)
    assert str(caught.value) == said


def test_a_dispatch_is_refused_when_it_is_made():
    with pytest.raises(
        DeviceError, match="shader rms_norm_base has no specialization constant lanes; it has: LANES, HAS_RESIDUAL"
    ):
        Dispatch("rms_norm_base", (), (), (1, 1, 1), {"lanes": 32})
    with pytest.raises(DeviceError, match="specialization constant HAS_RESIDUAL has no value"):
        Dispatch("rms_norm_base", (), (), (1, 1, 1), {"LANES": 32})
    with pytest.raises(DeviceError, match="no shader variant 'rms_norm'"):
        Dispatch("rms_norm", (), (), (1, 1, 1))


OWN = """#version 450
layout(local_size_x = 1) in;
layout(constant_id = 5) const int STEP = 1;
layout(std430, binding = 0) writeonly buffer Y { float y[]; };
layout(push_constant) uniform Push { uint at; float value; };
void main() { y[at] = value + float(STEP); }"""


def test_a_shader_of_ones_own_has_the_names_of_its_spirv(device):
    device.kernels.add("test_own", shaders.compile_glsl(OWN))
    assert shaders.interface("test_own") == Interface(
        "test_own", {"STEP": (5, "int")}, {"at": "uint", "value": "float"}
    )
    with pytest.raises(DeviceError, match="shader test_wide: constant size must be"):
        device.kernels.add("test_wide", shaders.compile_glsl(OWN.replace("float value;", "float value; vec2 size;")))


def test_run_shader_takes_names_and_numbers(device):
    for constants, push in (({"STEP": -2}, {"value": 0.5, "at": 1}), ({5: -2}, [1, 0.5])):
        (found,) = run_shader(device, OWN, outputs=[((3,), "float32")], constants=constants, push=push)
        np.testing.assert_array_equal(found, [0, -1.5, 0])
    (found,) = run_shader(device, OWN, outputs=[((3,), "float32")], push=[1, 0.5])
    np.testing.assert_array_equal(found, [0, 1.5, 0])
    with pytest.raises(DeviceError, match="push has 'at'; the shader declares at, value"):
        run_shader(device, OWN, outputs=[((3,), "float32")], push={"at": 1})
    with pytest.raises(DeviceError, match=r"no specialization constant 'STEPS'; it has: 5 \(STEP\)"):
        run_shader(device, OWN, outputs=[((3,), "float32")], push=[1, 0.5], constants={"STEPS": 1})


# The sources themselves

SOURCES = [path for path in sorted(shaders.SOURCES.rglob("*")) if path.suffix in (".comp", ".glsl")]


def test_sources_have_short_lines_and_short_mains():
    for path in SOURCES:
        lines = path.read_text().splitlines()
        assert max(map(len, lines)) <= 110, path
        main = [number for number, line in enumerate(lines) if line.startswith("void main()")]
        assert not main or lines.index("}", main[0]) - main[0] < 80, f"{path}: a long main"


def test_sources_are_formatted():
    tool = shutil.which("clang-format", path=sysconfig.get_path("scripts"))
    if tool is None:
        missing("clang-format is not installed (pip install clang-format)")
    done = subprocess.run([tool, "--dry-run", "--Werror", *SOURCES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_include_and_kernel_is_used():
    included = {name for path in SOURCES for name in re.findall(r'#include "(?:quant/)?([\w.]+)"', path.read_text())}
    built = {variant["source"] for variant in shaders.variants().values()}
    formats = {
        f"{variant['defines']['FORMAT'].lower()}.glsl"
        for variant in shaders.variants().values()
        if "FORMAT" in variant["defines"]
    }
    for path in SOURCES:
        assert path.name in (built if path.suffix == ".comp" else included | formats), path
    assert formats <= {path.name for path in SOURCES}

"""Products on units that multiply small matrices: what is built, and where it is used. Their results: test_ops.py,
on drivers that have them.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vkbackend.device import shaders
from vkbackend.ops import matmul, matmul_kernels

OP_TYPE_FLOAT, OP_CONSTANT, OP_TYPE_MATRIX = 22, 43, 4456


def instructions(code: bytes):
    words, at = np.frombuffer(code, np.uint32), 5
    while at < len(words):
        yield words[at] & 0xFFFF, [int(word) for word in words[at + 1 : at + (words[at] >> 16)]]
        at += int(words[at] >> 16)


@pytest.mark.parametrize("size", matmul_kernels.MATRIX_SIZES)
def test_matrix_types_are_of_floats_declared_before(size):
    m, n, k = map(int, size.split("x"))
    bits, constants, found = {}, {}, set()
    for opcode, operands in instructions(shaders.spirv(f"matmul_q4_k_matrix_{size}")):
        if opcode == OP_TYPE_FLOAT:
            bits[operands[0]] = operands[1]
        elif opcode == OP_CONSTANT and len(operands) == 3:
            constants[operands[1]] = operands[2]
        elif opcode == OP_TYPE_MATRIX:
            _, component, scope, rows, columns, use = operands
            found.add((bits[component], *(constants[each] for each in (scope, rows, columns, use))))
    assert found == {(16, 3, m, k, 0), (16, 3, k, n, 1), (32, 3, m, n, 2)}


def fake(device, *sizes, flavor="subgroup", lanes=32, **limits):
    info = replace(
        device.info,
        features=frozenset(["memory_model", *(f"cooperative_matrix_{size}" for size in sizes)]),
        subgroup_size=32,
        subgroup_min=8,
        subgroup_max=64,
        limits=replace(device.info.limits, max_workgroup_subgroups=limits.get("subgroups", 16)),
    )
    return SimpleNamespace(info=info, flavor=flavor, lanes=lanes, supports=info.features.__contains__)


def test_the_best_size_that_is_built_is_taken(device):
    assert matmul_kernels.matrix_size(fake(device, "16x8x8", "8x8x16", "16x16x16")) == "16x16x16"
    assert matmul_kernels.matrix_size(fake(device, "16x8x8")) is None
    assert matmul_kernels.matrix_size(fake(device, "8x8x16", flavor="base")) is None
    assert matmul_kernels.matrix_size(fake(device, "8x8x16", lanes=64)) is None, (
        "only the subgroup size that the driver itself takes"
    )
    assert matmul_kernels.matrix_size(fake(device, "8x8x16", subgroups=2)) is None


def test_every_size_has_variants_of_every_format():
    built = {name.rsplit("_", 1)[1] for name in shaders.variants() if "_matrix_" in name}
    assert built == set(matmul_kernels.MATRIX_SIZES)
    assert len([name for name in shaders.variants() if "_matrix_" in name]) == len(built) * sum(
        map(matmul.has_kernels, matmul.FORMATS.values())
    )


def test_float16_takes_matrices_wherever_they_are(device, monkeypatch):
    """By a rule, not by measurement: another kernel would change a result's last bits."""
    case = next(case for case in matmul.OP.cases if case.attrs.get("precision") == "float16")
    assert matmul.OP.candidates(device, case.make(np.random.default_rng(0)), **case.attrs) == []
    from vkbackend.ops.run import prepare

    monkeypatch.setattr(matmul_kernels, "matrix_size", lambda device: "16x16x16")
    prepared = prepare(device, matmul.OP, case.make(np.random.default_rng(0)), case.attrs, {})
    assert {dispatch.shader for dispatch in prepared.dispatches} == {"matmul_f32_matrix_16x16x16"}

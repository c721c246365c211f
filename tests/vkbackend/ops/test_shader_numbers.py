"""Numbers that ops share with the shaders are the same in both: constants of GLSL, and lists of variants.toml."""

import re
import tomllib

import numpy as np
from places import ROOT

from vkbackend.ops import matmul, matmul_kernels, q8_cache, top_k

SHADERS = ROOT / "shaders"
LISTS = tomllib.loads((SHADERS / "variants.toml").read_text())["lists"]


def constants(file: str) -> dict[str, float]:
    """The global constants of a source that are written as numbers."""
    found = {}
    for declaration in re.findall(r"^const (?:uint|int|float) ([^;]*);", (SHADERS / file).read_text(), re.M):
        for name, value in re.findall(r"(\w+) = (-?[0-9.]+(?:e[0-9]+)?)u?\s*(?:,|$)", declaration):
            found[name] = float(value)
    return found


def test_tiles_are_those_that_are_built():
    tiles = {name: [list(tile) for tile in matmul_kernels.TILES[name]] for name in ("base", "subgroup", "texel")}
    assert tiles == {"base": LISTS["BASE_TILES"], "subgroup": LISTS["TILES"], "texel": LISTS["TILES"]}
    sizes = [[int(side) for side in size.split("x")] for size in matmul_kernels.MATRIX_SIZES]
    assert sizes == LISTS["MATRIX_SIZES"]


def test_sizes_of_shared_tiles():
    shared = constants("matmul_tile.comp")
    assert (shared["BM"], shared["BN"]) == (matmul_kernels.TILE_ROWS, matmul_kernels.TILE_TOKENS)
    matrix = constants("matmul_matrix.comp")
    assert (matrix["BM"], matrix["BN"]) == (matmul_kernels.MATRIX_SIDE, matmul_kernels.MATRIX_SIDE)
    assert matrix["SUBGROUPS"] == matmul_kernels.MATRIX_SUBGROUPS


def test_gates():
    gates = {"GATE_" + (name or "none").upper(): number for name, number in matmul.GATES.items()}
    assert constants("activation.glsl") == gates


def test_types_of_the_cache():
    names = {"float32": "CACHE_F32", "float16": "CACHE_F16", q8_cache.NAME: "CACHE_Q8"}
    types = {names[dtype]: number for dtype, number in q8_cache.TYPES.items()}
    assert constants("cache.glsl") == types | {"Q8_BLOCK": q8_cache.BLOCK}


def test_strips_of_top_k():
    found = constants("top_k.glsl")
    assert 4 * found["STRIP_FOURS"] == top_k.STRIP
    assert found["WORKGROUP"] * top_k.STRIP == top_k.WORKGROUP
    assert np.float32(found["LOWEST"]) == top_k.LOWEST and np.float32(found["UNBOUNDED"]) == top_k.UNBOUNDED

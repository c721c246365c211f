"""Sizes that CONTRIBUTING.md sets: lines of a function, of a file, columns, and docstrings of functions."""

import ast
import re
from pathlib import Path

import pytest
from places import ROOT

PRODUCT = sorted(path for folder in ("vkbackend", "server", "shaders") for path in (ROOT / folder).rglob("*.py"))
PYTHON = PRODUCT + sorted(path for folder in ("tests", "scripts") for path in (ROOT / folder).rglob("*.py"))
GLSL = sorted(path for suffix in ("comp", "glsl") for path in (ROOT / "shaders").rglob(f"*.{suffix}"))
CPP = sorted((ROOT / "vkbackend").rglob("*.cpp"))
# Ways of a format, which `QuantFormat` describes.
DESCRIBED = {"vkbackend/gguf/formats": {"split", "unpack", "encode"}}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def num_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def test_functions_have_at_most_60_lines():
    long = [
        f"{name(path)}: {node.name}: {num_lines(node)}"
        for path in PRODUCT
        for node in functions(ast.parse(path.read_text()))
        if num_lines(node) > 60
    ]
    assert len(PRODUCT) > 150 and long == []


def test_files_of_the_product_have_at_most_400_lines():
    sizes = {name(path): len(path.read_text().splitlines()) for path in PRODUCT}
    assert {path: size for path, size in sizes.items() if size > 400} == {}


@pytest.mark.parametrize("paths, most", [(PYTHON, 120), (CPP, 120), (GLSL, 110)], ids=["python", "cpp", "glsl"])
def test_lines_are_not_wider_than_the_formatter_makes_them(paths, most):
    wide = [
        f"{name(path)}:{number}: {len(line)}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > most and not line.endswith("# noqa: E501")
    ]
    assert paths and wide == []


def test_main_of_a_shader_has_at_most_80_lines():
    sizes = {}
    for path in GLSL:
        for body in re.findall(r"^void main\(\) \{.*?^\}", path.read_text(), re.M | re.S):
            sizes[name(path)] = body.count("\n") + 1
    assert len(sizes) >= len([path for path in GLSL if path.suffix == ".comp"]) - 1  # a file may make main by a macro
    assert {path: size for path, size in sizes.items() if size > 80} == {}


def test_public_functions_have_docstrings():
    missing = [
        f"{name(path)}:{node.lineno}: {node.name}"
        for path in PRODUCT
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and not node.name.startswith("_")
        and node.name not in DESCRIBED.get(name(path.parent), ())
        and not ast.get_docstring(node)
    ]
    assert missing == []

"""The tests that tests/support/markers.py names exist: a renamed one would silently join the quick run."""

import ast

import pytest
from markers import SLOW
from places import TESTS


@pytest.mark.parametrize("file", SLOW)
def test_slow_tests_exist(file):
    (path,) = TESTS.rglob(file)
    names = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    assert [test for test in SLOW[file] if test not in names] == []

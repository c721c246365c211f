"""Tool calls written in Python: they are read, never evaluated."""

import pytest

from vkbackend.server.output_parsers.python_calls import read_calls


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("[f(a=1)]", [("f", {"a": 1})]),
        ("f(a=1.5e3, b=-2), g()", [("f", {"a": 1500.0, "b": -2}), ("g", {})]),
        (r"""[f(a='it\'s', b="x\n\"y\"")]""", [("f", {"a": "it's", "b": 'x\n"y"'})]),
        ("[f(a=True, b=null, c=None, d=false)]", [("f", {"a": True, "b": None, "c": None, "d": False})]),
        ("[m.f(a=[1, [2,]], b={'k': {\"l\": []}})]", [("m.f", {"a": [1, [2]], "b": {"k": {"l": []}}})]),
        (r"[f(a='\d+\x', b='\u00e9\ud83d\ude00\x21')]", [("f", {"a": r"\d+\x", "b": "é😀!"})]),
        ("[f(a='two\nlines')]", [("f", {"a": "two\nlines"})]),
    ],
)
def test_calls_are_read(text, wanted):
    assert read_calls(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[f(1)]",
        "[f(a=g(1))]",
        "[f(a=__import__('os'))]",
        "[f(a=1)",
        "[f(a=1)] and more",
        pytest.param("[f(a=" + "[" * 100_000, id="deep"),
        pytest.param("[f(a=" + "1" * 100_000 + ")]", id="long number"),
        pytest.param("[f(a='" + "\\" * 100_001 + "')]", id="escapes"),
    ],
)
def test_anything_else_is_no_call(text):
    assert read_calls(text) is None

"""The built-in output parsers (PARSER in a Modelfile), chunk by chunk, against recordings of Ollama 0.12.11."""

import json

import pytest
from recorded import check, load
from tool_vectors import plain_calls, tools, with_texts

from vkbackend.server.go import encode
from vkbackend.server.go.binding import bind
from vkbackend.server.output_parsers import ParseError, builtin
from vkbackend.server.wire.native import ChatRequest, Message


def last_message(vector) -> Message | None:
    found = vector.get("last_message")
    return found and bind(ChatRequest, json.dumps({"messages": [found]}).encode()).messages[0]


def run(vector):
    """Return our parser's results in the form of a vector."""
    try:
        parser = builtin(vector["parser"], tools(vector.get("tools")), last_message(vector))
    except ParseError as error:
        return {"error": str(error)}
    steps = []
    for step in vector["steps"]:
        told = {"chunk": step["chunk"]} | ({"done": True} if step.get("done") else {})
        try:
            parsed = parser.add(step["chunk"], step.get("done", False))
            told |= {"content": parsed.content, "thinking": parsed.thinking, "calls": plain_calls(parsed.calls)}
        except ParseError as error:
            told["error"] = str(error)
        steps.append(told)
    return {"has_thinking_support": parser.knows_thinking, "has_tool_support": parser.knows_tools, "steps": steps}


def wanted(vector):
    if "error" in vector:
        return {"error": vector["error"]}
    steps = [step | {"calls": with_texts(step["calls"])} if "calls" in step else step for step in vector["steps"]]
    return {
        "has_thinking_support": vector["has_thinking_support"],
        "has_tool_support": vector["has_tool_support"],
        "steps": steps,
    }


def test_recorded_chunks():
    check(load("builtin_parsers"), lambda vector: (run(vector), wanted(vector)))


def whole(parser, text, size):
    parts = [parser.add(text[at : at + size]) for at in range(0, len(text), size)] + [parser.add("", done=True)]
    calls = [f"{call.function.name}{encode.dumps(call.function.arguments)}" for part in parts for call in part.calls]
    return "".join(part.content for part in parts), "".join(part.thinking for part in parts), calls


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_harmony_gives_tools_back_their_names(size):
    parser = builtin(
        "harmony",
        tools(
            [
                {"type": "function", "function": {"name": name}}
                for name in ("get.weather", "get weather", "9lives", "é+")
            ]
        ),
    )
    names = [tool.function.name for tool in parser.tools]
    assert names == ["get_weather", "get_weather_2", "_9lives", "é"]
    text = (
        "<|channel|>analysis<|message|>why<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather_2 "
        "<|constrain|>json"
        '<|message|>{"a":1}'
    )
    text += "<|end|><|start|>assistant to=functions.é<|channel|>commentary<|message|>{}"
    assert whole(parser, text, size) == ("", "why", ['get weather{"a":1}', "é+{}"])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_values_that_look_like_markup(size):
    """Angle brackets and ampersands in a value are text; a tag in it is not."""
    known = tools(
        [
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "parameters": {
                        "properties": {
                            "x": {"type": "string"},
                            "n": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                        }
                    },
                },
            }
        ]
    )
    text = (
        "a<tool_call>\n<function=f>\n<parameter=x>\n\nif (a < b && c > "
        "d)\n\n</parameter>\n<parameter=n>\n12\n</parameter>\n</function>\n"
        "</tool_call>"
    )
    assert whole(builtin("qwen3-coder", known), text, size) == (
        "a",
        "",
        ['f{"n":12,"x":"\\nif (a \\u003c b \\u0026\\u0026 c \\u003e d)\\n"}'],
    )


@pytest.mark.parametrize(
    "name, text, wanted",
    [
        ("qwen3-coder", "a <tool", ("a <tool", "", [])),
        ("qwen3-vl-instruct", "a <tool", ("a <tool", "", [])),
        ("qwen3-vl-thinking", "hm </thi", ("", "hm </thi", [])),
        ("qwen3-vl-thinking", "hm</think>a<", ("a<", "hm", [])),
        ("harmony", "<|channel|>final<|message|>a <|en", ("a <|en", "", [])),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_text_that_only_began_like_a_tag_is_not_lost(name, text, wanted, size):
    assert whole(builtin(name), text, size) == wanted

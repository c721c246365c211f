"""Tool calls found in a model's output, chunk by chunk, against recordings of Ollama 0.12.11."""

import json
import time

import pytest
from recorded import check, load
from tool_vectors import plain_calls, tools, with_texts

from vkbackend.server.go import encode
from vkbackend.server.output_parsers.tools import ToolsParser
from vkbackend.server.prompts.gotemplate import Template, Values
from vkbackend.server.prompts.marks import tag_of


def test_recorded_chunks():
    setup, *vectors = load("tools_parser")
    known = tools(setup["tools"])

    def got_and_wanted(vector):
        parser = ToolsParser(tag_of(Template.parse(vector["template"])), known)
        steps = []
        for step in vector["steps"]:
            parsed = parser.add(step["chunk"])
            steps.append({"calls": plain_calls(parsed.calls), "chunk": step["chunk"], "content": parsed.content})
        wanted = [step | {"calls": with_texts(step["calls"])} for step in vector["steps"]]
        return (parser.tag, steps, parser.rest()), (vector["tag"], wanted, vector["remaining_content"])

    check(vectors, got_and_wanted)


def test_recorded_tags():
    check(load("tools_tag"), lambda vector: (tag_of(Template.parse(vector["template"])), vector["tag"]))


def call_texts(parser, *chunks):
    parts = [parser.add(chunk) for chunk in chunks] + [parser.add("", done=True)]
    calls = [f"{call.function.name}{encode.dumps(call.function.arguments)}" for part in parts for call in part.calls]
    return "".join(part.content for part in parts), calls


def test_what_was_no_call_comes_back_once():
    known = tools(
        [{"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "string"}}}}}]
    )
    text = 'Look: {"name": "add"'
    assert call_texts(ToolsParser("{", known), text) == (text, [])
    assert call_texts(ToolsParser("{", known), '{"name": "add"') == ('{"name": "add"', [])
    assert call_texts(ToolsParser("<tool_call>", known), 'a<tool_call>{"name": "add"') == ("a", [])
    assert call_texts(ToolsParser("<tool_call>", known), "a <tool") == ("a ", [])


@pytest.mark.parametrize("tag", ["<tool_call>", "{"])
def test_a_long_call_is_looked_at_once(tag):
    """256 KiB of arguments full of braces and quotes, a few characters at a time, take linear time."""
    known = tools(
        [
            {
                "type": "function",
                "function": {"name": "write", "parameters": {"properties": {"text": {"type": "string"}}}},
            }
        ]
    )
    written = 'if (a) { b("c"); }\\n' * 12_000
    text = tag.removesuffix("{") + json.dumps({"name": "write", "arguments": {"text": written}})
    parser, start = ToolsParser(tag, known), time.monotonic()
    parts = [parser.add(text[at : at + 16]) for at in range(0, len(text), 16)]
    calls = [call for part in parts for call in part.calls]
    assert [call.function.arguments for call in calls] == [{"text": written}]
    assert time.monotonic() - start < 5


def test_many_tools_cost_little():
    """Parsers run for every piece of every answer, so many tools must not slow them down."""
    known = tools([{"type": "function", "function": {"name": f"tool_{number}_{'x' * 50}"}} for number in range(1000)])
    parser = ToolsParser("<tool_call>", known)
    parser.add("<tool_call>{")
    started = time.process_time()
    for _ in range(200):
        parser.add("abc ")
    assert time.process_time() - started < 0.6  # measured 0.02; 1.8 if each end of the text is compared with each name


def test_recorded_types_of_parameters():
    """Recorded TypeScript types, as templates write them."""
    template = Template.parse(
        "{{ range .Tools }}{{ range .Function.Parameters.Properties }}{{ .ToTypeScriptType }}{{ end }}{{ end }}{{ "
        ".Messages }}"
    )

    def written(vector):
        properties = {"x": json.loads(vector["input_text"])}
        tool = {
            "type": "function",
            "function": {"name": "f", "parameters": {"type": "object", "properties": properties}},
        }
        return template.execute(Values(tools=[tool])).removesuffix("[]")

    check(load("api_requests_responses", "typescript_type"), lambda vector: (written(vector), vector["output"]))

"""Thinking separated from a model's output, chunk by chunk, against recordings of Ollama 0.12.11."""

import asyncio
import hashlib
import json

import pytest
from aiohttp.test_utils import TestClient, TestServer
from recorded import check, load
from starter_models import model_path

from vkbackend.server.app import build_app
from vkbackend.server.library.store import Store
from vkbackend.server.loading.engine_loader import EngineLoader
from vkbackend.server.loading.loaded_models import LoadedModels
from vkbackend.server.output_parsers.thinking import ThinkingParser


def steps(parser, vector):
    """Return a parser's result for each chunk of a vector, in the vector's form."""
    got = []
    for step in vector["steps"]:
        parsed = parser.add(step["chunk"])
        got.append({"chunk": step["chunk"], "content": parsed.content, "thinking": parsed.thinking})
    return got


def test_recorded_chunks():
    check(
        load("thinking_parser"),
        lambda vector: (steps(ThinkingParser(vector["opening_tag"], vector["closing_tag"]), vector), vector["steps"]),
    )


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think>b",
        "no thoughts",
        " \n<think>\n a\n</think>\n\n b ",
        "<think>never closed",
        "<thin",
        "<think>x</th",
    ],
)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_chunks_do_not_matter_and_nothing_is_lost_at_the_end(text, size):
    def whole(chunks):
        parser = ThinkingParser("<think>", "</think>")
        parts = [parser.add(chunk) for chunk in chunks] + [parser.add("", done=True)]
        return "".join(part.content for part in parts), "".join(part.thinking for part in parts)

    content, thoughts = whole([text])
    assert whole([text[start : start + size] for start in range(0, len(text), size)]) == (content, thoughts)
    bare = text.replace("<think>", "").replace("</think>", "")
    assert "".join((thoughts + content).split()) == "".join(bare.split())


def test_a_prompt_that_ends_with_the_opening_tag():
    parser = ThinkingParser("<think>", "</think>", opened=True)
    first, second = parser.add("\n why"), parser.add("</think>so")
    assert (first.thinking, second.content) == ("why", "so")


# Makes the starter model think: the prompt ends inside the thinking. A call holds a name and arguments.
TEMPLATE = """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ if .Thinking }}<think>{{ .Thinking }}</think>
{{ end }}{{ .Content }}{{ if .ToolCalls }}
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end -}}
{{ end }}<|im_end|>
{{ end }}{{ range .Tools }}{{ . }}{{ end }}<|im_start|>assistant
{{ if .Think }}<think>{{ end }}"""
CALL = {
    "type": "object",
    "required": ["name", "arguments"],
    "additionalProperties": False,
    "properties": {
        "name": {"const": "get_weather"},
        "arguments": {
            "type": "object",
            "required": ["city"],
            "additionalProperties": False,
            "properties": {"city": {"type": "string", "maxLength": 12}},
        },
    },
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def test_a_real_model_thinks_keeps_to_a_format_and_calls_a_tool(tmp_path, monkeypatch):
    """On the CPU: thinking is free text, the answer obeys the format, and a tool call may come from a format."""
    monkeypatch.delenv("OLLAMA_VULKAN", raising=False)
    contents = model_path("smollm2").read_bytes()
    digest = "sha256:" + hashlib.sha256(contents).hexdigest()
    store = Store(tmp_path / "models")
    options = {"temperature": 0, "num_predict": 200, "num_ctx": 512}

    async def run():
        async with TestClient(TestServer(build_app(store, LoadedModels(store, EngineLoader())))) as client:

            async def post(path, **body):
                answer = await client.post(path, json={"model": "m", "stream": False, "options": options} | body)
                assert answer.status == 200, await answer.text()
                return [json.loads(line) for line in (await answer.text()).splitlines()]

            assert (await client.post(f"/api/blobs/{digest}", data=contents)).status == 201
            await post("/api/create", files={"m.gguf": digest}, template=TEMPLATE)
            question = [{"role": "user", "content": "Say hi"}]
            schema = {
                "type": "object",
                "properties": {"a": {"type": "integer", "maximum": 99}},
                "required": ["a"],
                "additionalProperties": False,
            }
            thought = (await post("/api/chat", messages=question, format=schema))[0]
            question = [{"role": "user", "content": "What is the weather in Paris?"}]
            called = await post(
                "/api/chat", messages=question, format=CALL, tools=[TOOL], think=False, stream=True, logprobs=True
            )
            return thought, called

    thought, called = asyncio.run(run())
    assert len(thought["message"]["thinking"]) > 10 and thought["done_reason"] == "stop"
    assert list(json.loads(thought["message"]["content"])) == ["a"]
    calls = [call for answer in called for call in answer["message"].get("tool_calls", ())]
    assert [call["function"]["name"] for call in calls] == ["get_weather"] and list(
        calls[0]["function"]["arguments"]
    ) == ["city"]
    assert all(answer["message"]["content"] == "" for answer in called)
    written = "".join(item["token"] for answer in called for item in answer.get("logprobs", ()))
    assert json.loads(written) == {"name": "get_weather", "arguments": calls[0]["function"]["arguments"]}

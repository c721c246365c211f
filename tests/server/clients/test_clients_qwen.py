"""Qwen2.5-Coder-0.5B on the default device: recorded conversations, and real tool calls and completions through the
clients of Ollama and OpenAI.
"""

import json

import pytest
import replay_qwen
from live_server import LiveServer
from replay_qwen import NAME

# Each kind of conversation, the shortest of its kind; `python tests/support/replay_qwen.py` replays all.
SHORT = [
    "qwen_show",
    "qwen_chat_rendered",
    "qwen_chat_turns",
    "qwen_embeddings_old",
    "qwen_logprobs_openai",
    "qwen_suffix_openai",
    "qwen_suffix_rendered",
    "qwen_tools_openai_bad",
    "qwen_tools_rendered",
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    environment = {"OLLAMA_VULKAN": "1"}
    with LiveServer(tmp_path_factory.mktemp("qwen") / "models", environment=environment) as server:
        replay_qwen.create(server)
        yield server.url


def test_recorded_conversations_with_qwen(url, tmp_path, record_figure):
    seconds, failed, said = replay_qwen.replay(url, tmp_path / "report.json", SHORT)
    record_figure(f"Qwen2.5-Coder-0.5B: {len(seconds) - len(failed)} of {len(seconds)} recorded conversations pass")
    assert set(seconds) == set(SHORT)
    assert failed == [], said


RESULTS = {"add": lambda a, b: a + b, "multiply": lambda x, y: x * y}


def result_of(call) -> str:
    """What the tool says. call: of one of the clients, whose arguments are a dict or JSON."""
    arguments = call.function.arguments
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    return str(RESULTS[call.function.name](**given))


@pytest.mark.parametrize(
    "case, calls, results",
    [
        ("qwen_tools_logprobs", [("multiply", {"x": 8, "y": 9})], ["72"]),
        ("qwen_tools_one_stream", [("multiply", {"x": 6, "y": 7})], ["42"]),
        ("qwen_tools_two_stream", [("add", {"a": 10, "b": 20}), ("add", {"a": 30, "b": 40})], ["30", "70"]),
    ],
)
def test_a_conversation_with_tools_through_the_ollama_client(url, case, calls, results):
    import ollama

    asked = replay_qwen.request(case)
    options = asked["options"]
    with ollama.Client(url) as client:
        found = client.chat(NAME, asked["messages"], tools=asked["tools"], options=options, stream=asked["stream"])
        parts = list(found) if asked["stream"] else [found]
    called = [call for part in parts for call in part.message.tool_calls or ()]
    assert [(call.function.name, dict(call.function.arguments)) for call in called] == calls
    assert "".join(part.message.content or "" for part in parts) == "" and parts[-1].done_reason == "stop"
    messages = [*asked["messages"], {"role": "assistant", "content": "", "tool_calls": called}]
    messages += [{"role": "tool", "tool_name": c.function.name, "content": result_of(c)} for c in called]
    # Without tools: this small model would call again.
    with ollama.Client(url) as client:
        answer = client.chat(NAME, messages, options=options).message
    assert not answer.tool_calls and all(result in answer.content for result in results)


@pytest.mark.parametrize(
    "case, name, arguments",
    [("qwen_tools_openai", "add", {"a": 17, "b": 25}), ("qwen_tools_openai_stream", "multiply", {"x": 6, "y": 7})],
)
def test_a_conversation_with_tools_through_the_openai_client(url, case, name, arguments):
    import openai

    asked = replay_qwen.request(case)
    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        found = client.chat.completions.create(**asked)
        if asked.get("stream"):
            choices = [choice for chunk in found for choice in chunk.choices]
            called = [call for choice in choices for call in choice.delta.tool_calls or ()]
        else:
            choices = found.choices
            called = choices[0].message.tool_calls
        (call,) = called
        assert (call.function.name, json.loads(call.function.arguments)) == (name, arguments)
        assert choices[-1].finish_reason == "tool_calls"
        shown = {"id": call.id, "type": "function", "function": call.function.model_dump()}
        messages = [
            *asked["messages"],
            {"role": "assistant", "content": None, "tool_calls": [shown]},
            {"role": "tool", "tool_call_id": call.id, "content": result_of(call)},
        ]
        answer = client.chat.completions.create(model=NAME, messages=messages, temperature=0, max_tokens=40)
    assert "42" in answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"


def test_the_middle_is_filled_in_through_completion_clients(url):
    import ollama
    import openai

    before, after = "function square(x) {\n  return ", ";\n}\n"
    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        found = client.completions.create(model=NAME, prompt=before, suffix=after, temperature=0, max_tokens=4)
    assert found.choices[0].text.startswith("x * x")
    options = {"temperature": 0, "num_predict": 4}
    with ollama.Client(url) as client:
        found = client.generate(NAME, before, suffix=after, options=options)
    assert found.response.startswith("x * x")

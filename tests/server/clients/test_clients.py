"""Clients that people use, against the server in a process of its own with a real model: openai, ollama,
langchain-ollama, litellm.

Each streams, reads log-probabilities, calls tools, asks for structured output and for embeddings, as far as it has
words for it.
"""

import json
import re
import shutil
import subprocess

import pytest
from clients_world import ANSWER, CALL, QUESTION, SCHEMA, TOOL, check_logprobs, cosine, serving
from places import ROOT
from vulkan_drivers import missing


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("clients")) as url:
        yield url


def as_schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.fixture
def openai_client(url):
    import openai

    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_chat(openai_client):
    def create(**more):
        return openai_client.chat.completions.create(
            **{"model": "smollm2", "messages": QUESTION, "temperature": 0} | more
        )

    whole = create(logprobs=True, top_logprobs=2)
    assert whole.choices[0].message.content == ANSWER and whole.choices[0].finish_reason == "stop"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (16, 8)
    check_logprobs(whole.choices[0].logprobs.content)
    chunks = list(create(stream=True, logprobs=True, top_logprobs=2, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices) == ANSWER and len(chunks) > 5
    check_logprobs(
        [entry for chunk in chunks for choice in chunk.choices if choice.logprobs for entry in choice.logprobs.content]
    )
    assert chunks[-1].usage == whole.usage
    several = create(n=2, max_completion_tokens=3)
    assert [choice.message.content for choice in several.choices] == [
        "The capital of"
    ] * 2 and several.usage.completion_tokens == 6


def test_openai_structured_output_and_tools(openai_client):
    answer = openai_client.chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, response_format=as_schema(SCHEMA)
    )
    assert json.loads(answer.choices[0].message.content)["city"] in ("Paris", "Rome")
    for stream in (False, True):
        found = openai_client.chat.completions.create(
            model="caller",
            messages=QUESTION,
            tools=[TOOL],
            temperature=0,
            logprobs=True,
            response_format=as_schema(CALL),
            stream=stream,
        )
        if stream:
            chunks = list(found)
            calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
            reason, content = (
                chunks[-1].choices[0].finish_reason,
                "".join(chunk.choices[0].delta.content for chunk in chunks),
            )
            logprobs = [
                entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content
            ]
        else:
            calls, reason, content = (
                found.choices[0].message.tool_calls,
                found.choices[0].finish_reason,
                found.choices[0].message.content,
            )
            logprobs = found.choices[0].logprobs.content
        (call,) = calls
        assert (call.function.name, reason, content, call.type) == (
            "get_weather",
            "tool_calls",
            "",
            "function",
        ) and call.id.startswith("call_")
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
        assert (
            json.loads("".join(entry.token for entry in logprobs))["name"] == "get_weather"
        )  # of every token, also of those that are no content
    answered = openai_client.chat.completions.create(
        model="caller",
        temperature=0,
        max_tokens=8,
        messages=[
            *QUESTION,
            {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ],
    )
    assert answered.choices[0].message.content


def test_openai_completions_and_models(openai_client):
    def create(**more):
        return openai_client.completions.create(
            **{"model": "smollm2", "prompt": QUESTION[0]["content"], "temperature": 0} | more
        )

    whole = create(logprobs=2).choices[0]
    assert (
        whole.text == ANSWER and "".join(whole.logprobs.tokens) == ANSWER and len(whole.logprobs.top_logprobs[0]) == 2
    )
    assert "".join(chunk.choices[0].text for chunk in create(stream=True)) == ANSWER
    echoed = create(prompt="The capital of France is", echo=True, max_tokens=1, logprobs=1).choices[0]
    assert echoed.text == "The capital of France is Paris" and echoed.logprobs.token_logprobs[0] is None
    assert len(echoed.logprobs.tokens) == 6 and all(value < 0 for value in echoed.logprobs.token_logprobs[1:])
    assert {model.id for model in openai_client.models.list()} == {"smollm2:latest", "caller:latest"}
    assert openai_client.models.retrieve("smollm2").owned_by == "library"


def test_openai_errors(openai_client):
    import openai

    with pytest.raises(openai.NotFoundError, match="model 'nobody' not found"):
        openai_client.chat.completions.create(model="nobody", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="top_logprobs must be between 0 and 20"):
        openai_client.chat.completions.create(model="smollm2", messages=QUESTION, logprobs=True, top_logprobs=21)
    with pytest.raises(openai.BadRequestError, match="does not support tools"):
        openai_client.chat.completions.create(model="smollm2", messages=QUESTION, tools=[TOOL], stream=True)


def test_openai_embeddings(openai_client):
    """As base64 by default, which the client takes apart."""
    red, blue = (
        entry.embedding for entry in openai_client.embeddings.create(model="smollm2", input=["red", "blue"]).data
    )
    (as_numbers,) = (
        entry.embedding
        for entry in openai_client.embeddings.create(model="smollm2", input="red", encoding_format="float").data
    )
    assert len(red) == 576 and cosine(red, as_numbers) > 0.999999 and cosine(red, blue) < 0.9999
    (short,) = (
        entry.embedding for entry in openai_client.embeddings.create(model="smollm2", input="red", dimensions=12).data
    )
    assert (
        len(short) == 12
        and cosine(short, red[:12]) > 0.999999
        and abs(sum(value * value for value in short) - 1) < 1e-5
    )


def test_ollama_python(url):
    import ollama

    client = ollama.Client(url)
    options = {"temperature": 0}
    assert (
        "".join(part.message.content for part in client.chat("smollm2", QUESTION, stream=True, options=options))
        == ANSWER
    )
    whole = client.chat("smollm2", QUESTION, options=options, logprobs=True, top_logprobs=2)
    assert whole.message.content == ANSWER and whole.done_reason == "stop"
    check_logprobs(whole.logprobs)
    assert json.loads(client.chat("smollm2", QUESTION, options=options, format=SCHEMA).message.content)["city"] in (
        "Paris",
        "Rome",
    )
    (call,) = client.chat("caller", QUESTION, options=options, tools=[TOOL], format=CALL).message.tool_calls
    assert call.function.name == "get_weather" and call.function.arguments["city"] in ("Paris", "Rome")
    assert client.generate("smollm2", "1, 2, 3,", raw=True, options=options | {"num_predict": 4}).response
    with pytest.raises(ollama.ResponseError, match="not found") as error:
        client.chat("nobody", QUESTION)
    assert error.value.status_code == 404


def test_ollama_python_embeddings(url):
    import ollama

    client = ollama.Client(url)
    red, blue = client.embed("smollm2", ["red", "blue"]).embeddings
    assert len(red) == len(blue) == 576 and abs(cosine(red, client.embeddings("smollm2", "red").embedding) - 1) < 1e-4


def test_langchain(url):
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_ollama import ChatOllama

    ask = HumanMessage(QUESTION[0]["content"])
    chat = ChatOllama(model="smollm2", base_url=url, temperature=0)
    answer = chat.invoke([ask])
    assert (
        answer.content == ANSWER
        and answer.usage_metadata["total_tokens"] == 24
        and answer.response_metadata["done_reason"] == "stop"
    )
    assert "".join(chunk.content for chunk in chat.stream([ask])) == ANSWER
    city = chat.with_structured_output(SCHEMA | {"title": "answer"}, method="json_schema").invoke([ask])
    assert city["city"] in ("Paris", "Rome")
    caller = ChatOllama(model="caller", base_url=url, temperature=0, format=CALL, num_predict=40)
    called = caller.bind_tools([TOOL]).invoke([ask])
    (call,) = called.tool_calls
    assert call["name"] == "get_weather" and call["args"]["city"] in ("Paris", "Rome")
    assert caller.invoke([ask, called, ToolMessage("sunny", tool_call_id=call["id"])]).content


def test_langchain_embeddings(url):
    from langchain_ollama import OllamaEmbeddings

    red, blue = OllamaEmbeddings(model="smollm2", base_url=url).embed_documents(["red", "blue"])
    assert len(red) == 576 and cosine(red, blue) < 0.9999


@pytest.fixture(params=["ollama_chat", "openai"])
def litellm_provider(request, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download when it is imported
    return request.param


@pytest.mark.filterwarnings("ignore")
def test_litellm(url, litellm_provider):
    import litellm

    base = {"api_base": url + ("/v1" if litellm_provider == "openai" else ""), "api_key": "none", "temperature": 0}

    def ask(model="smollm2", **more):
        return litellm.completion(model=f"{litellm_provider}/{model}", messages=QUESTION, **base, **more)

    assert ask().choices[0].message.content == ANSWER
    assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(stream=True)) == ANSWER
    structured = ask(response_format=as_schema(SCHEMA)).choices[0].message.content
    assert json.loads(structured)["city"] in ("Paris", "Rome")
    if litellm_provider == "openai":
        (call,) = ask("caller", tools=[TOOL], response_format=as_schema(CALL)).choices[0].message.tool_calls
        assert call.function.name == "get_weather"
        check_logprobs(ask(logprobs=True, top_logprobs=2).choices[0].logprobs.content)


@pytest.mark.filterwarnings("ignore")
def test_litellm_embeddings(url, litellm_provider):
    import litellm

    name, base_url = ("openai", url + "/v1") if litellm_provider == "openai" else ("ollama", url)
    vectors = litellm.embedding(model=f"{name}/smollm2", input=["red", "blue"], api_base=base_url, api_key="none").data
    assert [len(entry["embedding"]) for entry in vectors] == [576, 576]


def test_curl_as_the_readme_shows_it(url):
    """Each `curl http://127.0.0.1:11434...` of README.md, on this server."""
    if shutil.which("curl") is None:
        missing("curl is not installed")
    lines = re.findall(
        r"^curl http://127\.0\.0\.1:11434.*?(?<!\\)\n(?=\S|$)",
        (ROOT / "README.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert lines
    for line in lines:
        command = (
            line.split("\n```")[0]
            .replace("http://127.0.0.1:11434", url)
            .replace("curl ", "curl --silent --show-error --fail-with-body ", 1)
        )
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "error" not in json.loads(done.stdout.splitlines()[0]), (
            command,
            done.stdout,
            done.stderr,
        )

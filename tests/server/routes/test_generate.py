"""/api/generate and /api/chat over the real engine with a fake runner: streams, log-probabilities, clients that leave,
errors.
"""

import asyncio
import json
import threading
import time

import pytest
from generate_world import generate, run, serving

from vkbackend.errors import DeviceLost, OutOfMemory
from vkbackend.server.generation.run import Run
from vkbackend.server.go.binding import bind
from vkbackend.server.wire.native import GenerateRequest


def test_whole_answer(tmp_path):
    async def scenario():
        async with serving(tmp_path) as client:
            answer, [body] = await generate(client, prompt="a b", stream=False)
            assert answer.status == 200 and answer.headers["Content-Type"] == "application/json; charset=utf-8"
            assert body["response"] == "Hello!" and body["done"] and body["done_reason"] == "stop"
            assert body["prompt_eval_count"] == 2 and body["eval_count"] == 4 and body["total_duration"] > 0
            assert body["context"] and "logprobs" not in body

    run(scenario)


@pytest.mark.parametrize("path", ["/api/generate", "/v1/completions"])
def test_a_large_request_does_not_delay_others(tmp_path, path):
    """Reading it takes half a second; other requests are answered in the meantime."""
    body = json.dumps({"model": "m", "raw": True, "prompt": "a", "stream": False, "unknown": ["x"] * 300_000}).encode()
    seconds = []

    async def ticks():
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            seconds.append(time.monotonic() - before)

    async def scenario():
        async with serving(tmp_path) as client:
            ticking = asyncio.create_task(ticks())
            answer = await client.post(path, data=body)
            assert answer.status == 200, await answer.text()
            ticking.cancel()

    started = time.monotonic()
    bind(GenerateRequest, body)
    alone = time.monotonic() - started
    run(scenario)
    assert max(seconds) < alone / 2, (max(seconds), alone)


def test_stream_ends_with_figures(tmp_path):
    async def scenario():
        async with serving(tmp_path) as client:
            answer, lines = await generate(client, prompt="a b")
            assert answer.headers["Content-Type"] == "application/x-ndjson"
            assert "".join(line["response"] for line in lines) == "Hello!" and lines[-1]["response"] == ""
            assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
            assert all(set(line) == {"model", "created_at", "response", "done"} for line in lines[:-1])

    run(scenario)


def test_chat_with_logprobs_streams_every_token(tmp_path):
    async def scenario():
        async with serving(tmp_path) as client:
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 2}
            answer = await client.post("/api/chat", json=body)
            lines = [json.loads(line) for line in (await answer.text()).splitlines()]
            tokens = [logprob for line in lines for logprob in line.get("logprobs", [])]
            assert "".join(token["token"] for token in tokens).startswith("Hello!")
            for token in tokens:
                assert token["logprob"] <= 0 and bytes(token["bytes"]).decode() == token["token"]
                assert [top["logprob"] for top in token["top_logprobs"]] == sorted(
                    (top["logprob"] for top in token["top_logprobs"]), reverse=True
                )
                assert len(token["top_logprobs"]) == 2
            assert lines[-1]["message"] == {"role": "assistant", "content": ""} and lines[-1]["done"]

    run(scenario)


def test_the_templates_prompt_reaches_the_runner(tmp_path):
    async def scenario():
        template = "{{ range .Messages }}<{{ .Role }}> {{ .Content }} {{ end }}<assistant>"
        async with serving(tmp_path, template=template, system="Be kind.") as client:
            await generate(client, prompt="Hi", stream=False)
            asked = client.runner.steps[0][0].tokens
            assert client.runner.tokenizer.decode(asked) == b"<system> Be kind. <user> Hi <assistant>"

    run(scenario)


def test_a_client_that_leaves_ends_its_generation(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["x "] * 100_000]) as client:
            client.runner.gate = threading.Semaphore(3)
            answer = await client.post(
                "/api/generate", json={"model": "m", "prompt": "Hi", "options": {"num_predict": 50_000}}
            )
            await answer.content.readline()
            answer.close()
            engine = client.loaded_models.loaded[0].engine
            for _ in range(400):
                client.runner.gate.release()
                if not engine.num_unfinished:
                    break
                await asyncio.sleep(0.01)
            assert engine.num_unfinished == 0 and len(client.runner.steps) < 500
            assert (await client.get("/api/version")).status == 200

    run(scenario)


def test_an_error_in_the_middle_is_the_last_line(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["x "] * 10]) as client:

            def fail_at_third(tokens):
                if len(tokens) > 3:
                    raise OutOfMemory("the cache is full; use a smaller num_ctx")
                return client.runner.tokenizer.id("x ")

            client.runner.next_token = fail_at_third
            answer, lines = await generate(client, prompt="Hi")
            assert (
                answer.status == 200
                and lines[-1] == {"error": "the cache is full; use a smaller num_ctx"}
                and len(lines) > 1
            )
            client.runner.next_token = None
            answer, [body] = await generate(client, prompt="Hi", stream=False)
            assert answer.status == 200 and body["done"]

    run(scenario)


@pytest.mark.parametrize(
    "stream, content_type", [(False, "application/json; charset=utf-8"), (True, "application/json")]
)
def test_an_error_before_the_first_piece_has_a_status(tmp_path, stream, content_type):
    async def scenario():
        async with serving(tmp_path) as client:
            client.runner.fail_with = OutOfMemory("no memory; use a smaller model")
            answer, [body] = await generate(client, prompt="Hi", stream=stream)
            assert (answer.status, answer.headers["Content-Type"], body) == (
                500,
                content_type,
                {"error": "no memory; use a smaller model"},
            )

    run(scenario)


def test_a_lost_device_is_reported_and_the_next_request_loads_again(tmp_path):
    async def scenario():
        async with serving(tmp_path) as client:
            client.runner.fail_with = DeviceLost("the device was reset")
            answer, [body] = await generate(client, prompt="Hi", stream=False)
            assert answer.status == 500 and "reset" in body["error"]
            answer, [body] = await generate(client, prompt="Hi", stream=False)
            assert answer.status == 200 and body["response"] == "Hello!"

    run(scenario)


def test_two_clients_share_the_model(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["one "] * 5, ["two "] * 5]) as client:
            answers = await asyncio.gather(*(generate(client, prompt=f"{name} x", stream=False) for name in ("p", "q")))
            assert sorted(body["response"] for _, [body] in answers) == ["one " * 5, "two " * 5]

    run(scenario)


@pytest.mark.parametrize(
    "path, body, status, error",
    [
        (
            "generate",
            {"prompt": "a b c d e f g h", "options": {"num_ctx": 4}, "raw": True, "truncate": False},
            400,
            "the input length exceeds the context length",
        ),
        (
            "generate",
            {"prompt": "a", "format": "xml"},
            500,
            'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object',
        ),
        (
            "chat",
            {"messages": [{"role": "user", "content": "a"}], "format": 5},
            500,
            'invalid format: "5"; expected "json" or a valid JSON Schema object',
        ),
        ("generate", {"prompt": "a", "think": True}, 400, '"m" does not support thinking'),
        ("generate", {"prompt": "a", "top_logprobs": -1}, 400, "top_logprobs must be between 0 and 20"),
        (
            "generate",
            {"prompt": "a", "suffix": "b"},
            400,
            "registry.ollama.ai/library/m:latest does not support insert",
        ),
        ("generate", {"prompt": "a", "options": {"stop": "x"}}, 500, 'option "stop" must be of type array'),
        ("generate", {"prompt": "a", "template": "{{ .Prompt"}, 500, "template: :1: unclosed action"),
    ],
)
def test_refusals(tmp_path, path, body, status, error):
    async def scenario():
        async with serving(tmp_path) as client:
            answer = await client.post(f"/api/{path}", json={"model": "m", "stream": False, **body})
            assert (answer.status, await answer.json()) == (status, {"error": error})

    run(scenario)


FILL_IN_THE_MIDDLE = ("a", "<|fim_suffix|>", "<|fim_prefix|>", "<|fim_middle|>")
WITH_SUFFIX = "{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else }}{{ .Prompt }}{{ end }}"


@pytest.mark.parametrize(
    "vocabulary, template, rendered",
    [
        (FILL_IN_THE_MIDDLE, None, "<|fim_prefix|>x = <|fim_suffix|>\n<|fim_middle|>"),
        (FILL_IN_THE_MIDDLE, WITH_SUFFIX, "<PRE>x = <SUF>\n<MID>"),
        (FILL_IN_THE_MIDDLE, "{{ .Prompt }}!", None),  # as in Ollama, the model's template decides
        (FILL_IN_THE_MIDDLE[:3], None, None),
    ],
)
def test_a_suffix_needs_a_template_with_it_or_a_file_with_tokens_for_it(tmp_path, vocabulary, template, rendered):
    async def scenario():
        more = {} if template is None else {"template": template}
        async with serving(tmp_path, vocabulary=vocabulary, **more) as client:
            shown = await (await client.post("/api/show", json={"model": "m"})).json()
            assert ("insert" in shown["capabilities"]) == (rendered is not None)
            body = {"model": "m", "prompt": "x = ", "suffix": "\n", "stream": False}
            answer = await client.post("/api/generate", json=body | {"_debug_render_only": True})
            if rendered is None:
                assert answer.status == 400 and "does not support insert" in (await answer.json())["error"]
                return
            assert (await answer.json())["_debug_info"]["rendered_template"] == rendered
            for path in ("/api/generate", "/v1/completions"):
                answer = await client.post(path, json=body)
                assert answer.status == 200, path

    run(scenario)


@pytest.mark.parametrize("text", ["null", '""'])
def test_an_empty_format_is_none(tmp_path, text):
    async def scenario():
        async with serving(tmp_path) as client:
            answer = await client.post(
                "/api/generate", data='{"model":"m","prompt":"a","stream":false,"format":%s}' % text
            )
            assert answer.status == 200

    run(scenario)


def test_options_of_model_and_request_reach_the_engine(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["x "] * 100], parameters={"num_predict": 3, "stop": ["never"]}) as client:
            _, [body] = await generate(client, prompt="a", stream=False)
            assert body["response"] == "x x x " and body["done_reason"] == "length"
            _, [body] = await generate(client, prompt="a", stream=False, options={"num_predict": 5})
            assert body["eval_count"] == 5

    run(scenario)


@pytest.mark.parametrize("stream", [True, False])
def test_a_long_context_in_an_answer_does_not_hold_up_the_event_loop(tmp_path, monkeypatch, record_figure, stream):
    """The longest piece of work on the loop while an answer with a context of 131,072 ids is sent."""
    ids = list(range(100_000, 231_072))
    monkeypatch.setattr(Run, "context_after", lambda self: ids)
    seconds = []

    async def ticks():
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            seconds.append(time.thread_time() - before)

    async def scenario():
        async with serving(tmp_path) as client:
            ticking = asyncio.create_task(ticks())
            async with client.post("/api/generate", json={"model": "m", "prompt": "a b", "stream": stream}) as answer:
                text = await answer.content.read()
            ticking.cancel()
            assert json.loads(text.splitlines()[-1])["context"] == ids

    run(scenario)
    record_figure(f"event loop with a context of 131,072 ids, stream {stream}: {1000 * max(seconds):.1f} ms at a time")
    assert max(seconds) < 0.02

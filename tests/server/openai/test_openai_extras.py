"""Extensions of /v1 beyond Ollama 0.12.11, on the real engine with a fake runner: n, logit_bias, max_completion_tokens.

Clients that leave, errors in mid-stream, odd values.
"""

import asyncio
import json

import numpy as np
import pytest
from generate_world import run, serving
from openai_world import ask, complete, events


def chat(client, **body):
    return ask(client, "/v1/chat/completions", messages=[{"role": "user", "content": "a b"}], **body)


def test_n_answers_share_one_prompt(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["Hel", "lo"], ["second"]]) as client:
            status, body = await chat(client, n=3, temperature=0)
            assert status == 200 and [choice["index"] for choice in body["choices"]] == [0, 1, 2]
            assert sorted(choice["message"]["content"] for choice in body["choices"]) == ["Hello", "second", "second"]
            assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 3 + 2 + 2, "total_tokens": 9}
            chunks, is_whole = await events(
                client, "/v1/completions", prompt="a b", n=2, stream_options={"include_usage": True}
            )
            assert is_whole and {choice["index"] for chunk in chunks for choice in chunk["choices"]} == {0, 1}
            assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == {
                "prompt_tokens": 2,
                "completion_tokens": 4,
                "total_tokens": 6,
            }
            for index in (0, 1):
                mine = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
                assert "".join(choice["text"] for choice in mine) == "second" and mine[-1]["finish_reason"] == "stop"

    run(scenario)


@pytest.mark.parametrize("n", [0, -1, 129])
def test_n_has_bounds(tmp_path, n):
    async def scenario():
        async with serving(tmp_path) as client:
            status, body = await chat(client, n=n)
            assert (
                status == 400
                and body["error"]["type"] == "invalid_request_error"
                and "n must be between 1 and 128" in body["error"]["message"]
            )

    run(scenario)


def test_choices_with_a_seed_differ_and_can_be_had_again(tmp_path):
    async def scenario():
        async with serving(tmp_path) as client:
            client.runner.row = lambda token_id: [0.0] * client.runner.vocab_size  # everything is equally likely

            async def texts(**body):
                _, answer = await complete(client, prompt="a", raw=True, max_tokens=6, logprobs=0, **body)
                return [tuple(choice["logprobs"]["tokens"]) for choice in answer["choices"]]

            together = await texts(n=3, seed=7)
            assert len(set(together)) == 3 and together == await texts(n=3, seed=7)
            assert await texts(seed=8) == [together[1]]

    run(scenario)


def test_max_completion_tokens_wins_over_max_tokens(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["one ", "two ", "three ", "four"]]) as client:
            for limits, text in (
                ({"max_completion_tokens": 2}, "one two "),
                ({"max_completion_tokens": 1, "max_tokens": 3}, "one "),
                ({"max_completion_tokens": None, "max_tokens": 3}, "one two three "),
            ):
                _, body = await chat(client, **limits)
                (choice,) = body["choices"]
                assert (choice["message"]["content"], choice["finish_reason"]) == (text, "length")

    run(scenario)


def test_logit_bias_forbids_and_forces_tokens(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["yes"]]) as client:
            await chat(client)  # the vocabulary grows with use
            runner = client.runner
            yes, other = runner.tokenizer.id("yes"), runner.tokenizer.id("other")
            for send in (
                chat,
                lambda client, **body: complete(client, prompt="a", **body),
                lambda client, **body: complete(client, prompt="a", raw=True, **body),
            ):
                _, body = await send(client, temperature=0, max_tokens=1, logit_bias={str(yes): -100, str(other): 100})
                (choice,) = body["choices"]
                assert choice.get("text", choice.get("message", {}).get("content")) == "other"

    run(scenario)


@pytest.mark.parametrize(
    "bias, said",
    [
        ({"5": 101}, "between -100 and 100"),
        ({"x": 1}, "is not a token id"),
        ({"-1": 1}, "is not a token id"),
        ({"99999": 1}, "not in the model's vocabulary"),
        ({"5": "much"}, "cannot unmarshal string"),
        ([5], "array"),
    ],
)
def test_a_bad_bias_is_refused(tmp_path, bias, said):
    async def scenario():
        async with serving(tmp_path) as client:
            for send in (chat, lambda client, **body: complete(client, prompt="a", **body)):
                status, body = await send(client, logit_bias=bias)
                assert status == 400 and said in body["error"]["message"], body

    run(scenario)


def test_the_native_api_takes_a_bias_as_an_option(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["yes"]]) as client:
            other = client.runner.tokenizer.id("other")
            _, body = await ask(
                client,
                "/api/generate",
                prompt="a",
                stream=False,
                options={"temperature": 0, "num_predict": 1, "logit_bias": {str(other): 100}},
            )
            assert body["response"] == "other"
            assert (await ask(client, "/api/generate", prompt="a", stream=False, options={"logit_bias": 5}))[0] == 400

    run(scenario)


# --- ends


def test_a_stream_that_breaks_off_has_no_end(tmp_path):
    from vkbackend.errors import OutOfMemory

    async def scenario():
        async with serving(tmp_path, [["one ", "two ", "three"]]) as client:

            def fail():
                if len(client.runner.steps) == 2:
                    client.runner.fail_with = OutOfMemory("no more")

            client.runner.after_step = fail
            chunks, is_whole = await events(client, "/v1/chat/completions", messages=[{"role": "user", "content": "a"}])
            assert not is_whole and chunks[-1]["model"] == "" and chunks[-1]["choices"][0]["finish_reason"] is None
            client.runner.steps.clear()
            client.runner.after_step = lambda: setattr(client.runner, "fail_with", OutOfMemory("no more"))
            status, body = await complete(client, prompt="b", n=2)
            assert status == 500 and body["error"]["type"] == "api_error" and "no more" in body["error"]["message"]

    run(scenario)


@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a b c"}], "n": 2}),
        ("/v1/completions", {"prompt": "a b c", "echo": True, "n": 2}),
    ],
)
def test_a_client_that_leaves_ends_all_its_choices(tmp_path, path, body):
    async def scenario():
        async with serving(tmp_path) as client:
            client.runner.next_token = lambda tokens: client.runner.tokenizer.id(f" {len(tokens) % 50}")
            answer = await client.post(path, json={"model": "m", "stream": True, **body})
            await answer.content.readline()
            answer.close()
            for _ in range(200):
                if not client.runner.sequences:
                    break
                await asyncio.sleep(0.05)
            assert not client.runner.sequences
            status, _ = await complete(client, prompt="d", max_tokens=1)
            assert status == 200

    run(scenario)


def test_models(tmp_path):
    async def scenario():
        async with serving(tmp_path) as client:

            async def get(path):
                answer = await client.get(path)
                return answer.status, await answer.json()

            status, body = await get("/v1/models")
            assert (
                status == 200
                and [model["id"] for model in body["data"]] == ["m:latest"]
                and body["data"][0]["owned_by"] == "library"
            )
            assert (await get("/v1/models/m"))[1] == body["data"][0] | {"id": "m"}
            assert (await get("/v1/models/ns%2Fx"))[0] == 404
            status, body = await get("/v1/models/..%2F..%2Fetc")
            assert status == 500 and body["error"]["type"] == "api_error"

    run(scenario)


ODD = [None, True, -1, 0, 1.5, 1e30, 10**30, "", "x", "\ud800", [], {}, [[]], [None], {"a": {}}, [5], "a" * 10_000]
FIELDS = {
    "/v1/chat/completions": [
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "seed",
        "stop",
        "temperature",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "response_format",
        "tools",
        "reasoning",
        "reasoning_effort",
        "logprobs",
        "top_logprobs",
        "n",
        "logit_bias",
        "tool_choice",
        "user",
    ],
    "/v1/completions": [
        "model",
        "prompt",
        "stream",
        "stream_options",
        "max_tokens",
        "seed",
        "stop",
        "temperature",
        "top_p",
        "frequency_penalty",
        "suffix",
        "logprobs",
        "n",
        "logit_bias",
        "echo",
        "raw",
        "best_of",
    ],
}


@pytest.mark.parametrize("path", FIELDS)
def test_no_odd_value_is_an_error_of_the_server(tmp_path, path):
    async def scenario():
        async with serving(tmp_path) as client:
            start = {"model": "m", "messages": [{"role": "user", "content": "a"}], "prompt": "a b", "max_tokens": 3}
            for extra in ({}, {"echo": True, "logprobs": 1}):
                for field in FIELDS[path]:
                    for value in ODD:
                        answer = await client.post(path, data=json.dumps(start | extra | {field: value}))
                        text = await answer.text()
                        assert answer.status in (200, 400, 404), (field, value, answer.status, text)
                        if answer.status != 200:
                            assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}
            for body in (
                b"",
                b"{",
                b"[]",
                b"\xff",
                b"5",
                b"[" * 50_000,
                b'{"messages":' + b"[" * 50_000,
                b'{"prompt":' + b"[" * 9_000 + b"]" * 9_000 + b"}",
            ):
                answer = await client.post(path, data=body)
                assert answer.status == 400, (body[:20], await answer.text())

    run(scenario)


@pytest.mark.parametrize("number, named", [(float("nan"), "NaN"), (float("inf"), "NaN"), (-float("inf"), "NaN")])
def test_log_probabilities_that_are_no_numbers_are_an_error(tmp_path, number, named):
    """A damaged model's logits are told of as the original does: JSON has no text for them. The infinite ones leave
    no number either.
    """

    async def scenario():
        async with serving(tmp_path, [["yes"]]) as client:
            client.runner.row = lambda token_id: np.full(client.runner.vocab_size, number, np.float32)
            status, body = await complete(client, prompt="one two three", echo=True, max_tokens=0, logprobs=1)
            assert (
                status == 500
                and body["error"]["message"] == f"failed to encode response: json: unsupported value: {named}"
            )
            answer = await client.post(
                "/v1/completions",
                json={"model": "m", "prompt": "one two", "echo": True, "max_tokens": 0, "logprobs": 1, "stream": True},
            )
            assert answer.status == 500 and (await answer.json()) == body
            assert (await client.get("/api/version")).status == 200

    run(scenario)

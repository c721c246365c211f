"""Extensions of /v1 beyond Ollama 0.12.11, on the real engine with a fake runner: n, logit_bias,
max_completion_tokens, log-probabilities of completions, echo, raw prompts, token ids; clients that leave, errors in
mid-stream.
"""

import asyncio
import json
import math

import numpy as np
import pytest
from generate_world import run, serving
from openai_world import TEMPLATE, ask, complete, events


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


# --- log-probabilities of completions


def check_shape(logprobs, text):
    """Each list has one entry per token; offsets are positions in the text."""
    lengths = {len(logprobs[key]) for key in ("tokens", "token_logprobs", "text_offset")}
    assert len(lengths) == 1
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"]):
        assert token.startswith("bytes:") or text[offset:].startswith(token), (token, offset, text)


def test_completions_give_the_log_probabilities_asked_for(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["Hel", "lo", " wörld"]]) as client:
            _, body = await complete(client, prompt="a", temperature=0, logprobs=2)
            logprobs = body["choices"][0]["logprobs"]
            assert logprobs["tokens"] == ["Hel", "lo", " wörld"] and logprobs["text_offset"] == [0, 3, 5]
            for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]):
                assert len(top) == 2 and top[token] == value == max(top.values()) <= 0 and math.exp(value) > 0.99
            _, body = await complete(client, prompt="a", temperature=0, logprobs=0)
            assert (
                body["choices"][0]["logprobs"]["top_logprobs"] is None
                and len(body["choices"][0]["logprobs"]["tokens"]) == 3
            )
            for nothing in ({}, {"logprobs": None}, {"logprobs": -1}):
                assert "logprobs" not in (await complete(client, prompt="a", **nothing))[1]["choices"][0]
            chunks, _ = await events(client, "/v1/completions", prompt="a", temperature=0, logprobs=1)
            parts = [chunk["choices"][0]["logprobs"] for chunk in chunks if "logprobs" in chunk["choices"][0]]
            assert sum((part["text_offset"] for part in parts), []) == [0, 3, 5]

    run(scenario)


def test_a_token_outside_the_likeliest_is_added_to_them(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["yes"]]) as client:
            other = client.runner.tokenizer.id("other")
            _, body = await complete(
                client, prompt="a", temperature=0, max_tokens=1, logprobs=1, logit_bias={str(other): 100}
            )
            logprobs = body["choices"][0]["logprobs"]
            (top,) = logprobs["top_logprobs"]
            assert set(top) == {"yes", "other"} and top["other"] == logprobs["token_logprobs"][0] < top["yes"]

    run(scenario)


def test_parts_of_characters_are_distinguished(tmp_path):
    async def scenario():
        euro = "€".encode()
        async with serving(tmp_path, [[euro[:1], euro[1:], "!"]]) as client:
            _, body = await complete(client, prompt="a", temperature=0, logprobs=1)
            (choice,) = body["choices"]
            assert choice["text"] == "€!" and choice["logprobs"]["tokens"] == ["bytes:\\xe2", "bytes:\\x82\\xac", "!"]
            assert choice["logprobs"]["text_offset"] == [0, 0, 1]

    run(scenario)


# --- echo, raw, token ids


def test_echo_shows_the_prompt_and_how_likely_it_was(tmp_path):
    async def scenario():
        async with serving(tmp_path, template=TEMPLATE) as client:
            following = [client.runner.tokenizer.id(text) for text in (" other", " words", "yes", " no")]
            client.runner.next_token = lambda tokens: following[len(tokens) - 1]
            for stream in (False, True):
                if stream:
                    chunks, _ = await events(
                        client,
                        "/v1/completions",
                        prompt="one two three",
                        echo=True,
                        temperature=0,
                        max_tokens=2,
                        logprobs=2,
                    )
                    choices = [chunk["choices"][0] for chunk in chunks]
                    parts = [choice["logprobs"] for choice in choices if "logprobs" in choice]
                    text, logprobs = (
                        "".join(choice["text"] for choice in choices),
                        {key: sum((part[key] for part in parts), []) for key in parts[0]},
                    )
                else:
                    _, body = await complete(
                        client, prompt="one two three", echo=True, temperature=0, max_tokens=2, logprobs=2
                    )
                    text, logprobs = body["choices"][0]["text"], body["choices"][0]["logprobs"]
                    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
                assert text == "one two threeyes no"  # no template
                assert logprobs["tokens"] == ["one", " two", " three", "yes", " no"]
                check_shape(logprobs, text)
                assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
                for token, value, top in list(
                    zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"])
                )[1:]:
                    assert value < 0 and top[token] == value and 2 <= len(top) <= 3
                assert logprobs["token_logprobs"][1] < max(
                    logprobs["top_logprobs"][1].values()
                )  # the fake model would have gone on otherwise

    run(scenario)


def test_echo_of_nothing_more_than_the_prompt(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["yes"]]) as client:
            _, body = await complete(client, prompt="one two", echo=True, max_tokens=0, logprobs=1)
            (choice,) = body["choices"]
            assert (
                choice["text"] == "one two"
                and choice["logprobs"]["tokens"] == ["one", " two"]
                and choice["finish_reason"] == "length"
            )
            assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 0, "total_tokens": 2}
            _, body = await complete(client, prompt="one two", echo=True, max_tokens=1)
            assert body["choices"][0]["text"] == "one twoyes" and "logprobs" not in body["choices"][0]
            _, body = await complete(client, prompt="one", echo=True, max_tokens=1, logprobs=1)  # nothing to score
            assert body["choices"][0]["logprobs"]["token_logprobs"][0] is None and body["choices"][0]["logprobs"][
                "tokens"
            ] == ["one", "yes"]

    run(scenario)


def test_an_end_token_is_an_entry_behind_an_echoed_prompt(tmp_path):
    """lm-eval drops the last entry, as it requests one token: it must not be a token of the prompt."""

    async def scenario():
        async with serving(tmp_path, [[]]) as client:
            _, body = await complete(client, prompt="one two", echo=True, temperature=0, max_tokens=1, logprobs=1)
            (choice,) = body["choices"]
            assert choice["text"] == "one two" and choice["finish_reason"] == "stop"
            assert choice["logprobs"]["tokens"] == ["one", " two", "</s>"] and choice["logprobs"]["top_logprobs"][
                2
            ].keys() == {"</s>"}
            assert choice["logprobs"]["token_logprobs"][2] > -0.01 and choice["logprobs"]["text_offset"] == [0, 3, 7]

    run(scenario)


def test_a_beginning_of_text_token_is_an_entry_without_a_place(tmp_path):
    """The model's tokenizer adds it to a text; ids are used as they are."""

    async def scenario():
        async with serving(tmp_path, [["yes"]]) as client:
            tokenizer = client.runner.tokenizer
            tokenizer.adds_bos = True
            _, body = await complete(client, prompt="one two", echo=True, max_tokens=0, logprobs=1)
            (choice,) = body["choices"]
            assert choice["text"] == "one two" and choice["logprobs"]["tokens"] == ["<s>", "one", " two"]
            assert choice["logprobs"]["text_offset"] == [0, 0, 3] and choice["logprobs"]["token_logprobs"][0] is None
            assert body["usage"]["prompt_tokens"] == 3
            ids = [tokenizer.id("one"), tokenizer.id(" two")]
            _, body = await complete(client, prompt=ids, echo=True, max_tokens=0, logprobs=1)
            assert (
                body["choices"][0]["logprobs"]["tokens"] == ["one", " two"] and body["choices"][0]["text"] == "one two"
            )

    run(scenario)


def test_raw_takes_the_prompt_as_it_is(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["yes"]], template=TEMPLATE) as client:
            tokenizer, prompts = client.runner.tokenizer, []

            async def tokens_of(**body):
                client.runner.steps.clear()
                status, answer = await complete(client, **body)
                assert status == 200, answer
                prompts.append(answer["usage"]["prompt_tokens"])
                return [tokenizer.decode(work.tokens).decode() for step in client.runner.steps[:1] for work in step]

            assert await tokens_of(prompt="one two") == ["[one two]"]
            assert await tokens_of(prompt="three four", raw=True) == ["three four"]
            assert await tokens_of(prompt=[tokenizer.id(" five"), tokenizer.id(" six")], raw=True) == [" five six"]

    run(scenario)


def test_several_prompts_at_once(tmp_path):
    async def scenario():
        async with serving(tmp_path, [["yes"]]) as client:
            ids = [client.runner.tokenizer.id(text) for text in ("three", " four", " five")]
            _, body = await complete(
                client, prompt=["one", ids[0:1] + ids[1:], "two two"], echo=True, temperature=0, max_tokens=1, n=2
            )
            assert [choice["index"] for choice in body["choices"]] == list(range(6))
            assert [choice["text"] for choice in body["choices"]] == ["oneyes"] * 2 + ["three four fiveyes"] * 2 + [
                "two twoyes"
            ] * 2
            assert body["usage"] == {"prompt_tokens": 1 + 3 + 2, "completion_tokens": 6, "total_tokens": 12}

    run(scenario)


@pytest.mark.parametrize(
    "prompt, said",
    [
        ([], "0 prompts"),
        ([1, "a"], "prompt must be"),
        ([1.5], "prompt must be"),
        ([[]], "prompt must be"),
        ([[1, 99999]], "not in the model's vocabulary"),
        ([-1], "prompt must be"),
        ([10**4000], "prompt must be"),
        ([None], "prompt must be"),
        ({"a": 1}, "cannot unmarshal object"),
        ("", "no tokens"),
        (["a"] * 129, "129 prompts"),
    ],
)
def test_odd_prompts_are_refused(tmp_path, prompt, said):
    async def scenario():
        async with serving(tmp_path) as client:
            for stream, echo in ((False, True), (True, True), (False, False)):
                if not echo and prompt == "":
                    continue  # a request without a prompt loads the model
                status, body = await complete(client, prompt=prompt, echo=echo, stream=stream)
                assert status == 400 and said in body["error"]["message"], body

    run(scenario)


def test_all_answers_to_a_request_together_are_bounded(tmp_path):
    """128 prompts with 128 answers each would keep other clients waiting for minutes."""

    async def scenario():
        async with serving(tmp_path) as client:
            status, body = await complete(client, prompt=["a"] * 43, n=3, raw=True, max_tokens=1)
            assert status == 400 and "43 prompts with n 3 ask for 129 answers" in body["error"]["message"]
            status, body = await complete(client, prompt=["a"] * 42, n=3, raw=True, max_tokens=1)
            assert status == 200 and len(body["choices"]) == 126

    run(scenario)


def test_what_does_not_go_with_a_raw_prompt(tmp_path):
    async def scenario():
        async with serving(tmp_path) as client:
            for body, said in (
                ({"suffix": "x"}, "suffix"),
                ({"logprobs": 21}, "top_logprobs must be between 0 and 20"),
            ):
                status, answer = await complete(client, prompt="a", raw=True, **body)
                assert status == 400 and said in answer["error"]["message"]
            status, answer = await complete(client, prompt="a " * 5000, echo=True, logprobs=1)
            assert status == 400 and "exceeds the context length" in answer["error"]["message"]
            for name, status in (("nope", 404), ("a b", 404)):
                assert (await complete(client, model=name, prompt="a", raw=True))[0] == status

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

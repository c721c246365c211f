"""Log-probabilities, echo, raw prompts and token ids in /v1/completions, on the real engine with a fake runner."""

import math

import pytest
from generate_world import run, serving
from openai_world import TEMPLATE, complete, events

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

"""/v1/completions of several prompts at once, without `echo` and `raw`."""

from generate_world import run, serving
from openai_world import TEMPLATE, complete, events


def test_a_list_of_prompts_has_a_choice_for_each(tmp_path):
    """A text in a list goes through the template like a single one; token ids are used as they are."""

    async def scenario():
        async with serving(tmp_path, [["yes"]], template=TEMPLATE) as client:
            tokenizer = client.runner.tokenizer
            ids = [[tokenizer.id("three"), tokenizer.id(" four")], [tokenizer.id("five")]]
            for prompt, seen in (
                (["one two"], ["[one two]"]),
                (["one", "two"], ["[one]", "[two]"]),
                (ids[0], ["three four"]),
                (ids, ["three four", "five"]),
                (["one", ids[0]], ["[one]", "three four"]),
            ):
                client.runner.steps.clear()
                status, body = await complete(client, prompt=prompt, n=2, temperature=0, max_tokens=1)
                assert status == 200 and [choice["index"] for choice in body["choices"]] == list(
                    range(2 * len(seen))
                ), body
                assert {choice["text"] for choice in body["choices"]} == {"yes"}
                alone = [
                    await complete(client, prompt=one, max_tokens=1)
                    for one in (prompt if isinstance(prompt[0], (str, list)) else [prompt])
                ]
                prompt_tokens = sum(answer["usage"]["prompt_tokens"] for _, answer in alone)
                assert body["usage"]["prompt_tokens"] == prompt_tokens and body["usage"][
                    "completion_tokens"
                ] == 2 * len(seen)
                given = {tokenizer.decode(work.tokens).decode() for step in client.runner.steps for work in step}
                # A beginning that is still cached is not computed again.
                assert all(any(text.endswith(part) for part in given) for text in seen), given
                chunks, is_whole = await events(
                    client, "/v1/completions", prompt=prompt, n=2, max_tokens=1, stream_options={"include_usage": True}
                )
                assert is_whole and {choice["index"] for chunk in chunks for choice in chunk["choices"]} == set(
                    range(2 * len(seen))
                )
                assert chunks[-1]["usage"] == body["usage"]

    run(scenario)

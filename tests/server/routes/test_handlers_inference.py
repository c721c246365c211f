"""The whole server with a scripted engine, against recorded conversations with Ollama 0.12.11 (/api/generate and
/api/chat).
"""

import asyncio
import json
import re

import pytest
from scripted_world import World, asked_alike, pieces
from shared_data import shared

# Recordings that do not apply here, and why.
OTHERWISE = {
    "handler-chat-names-298": "model names fold case everywhere: the recorded 404 is a quirk",
    "handler-085": "images are refused by models that see them: their vision does not run here yet",
    "handler-249": "images are refused by models that see them: their vision does not run here yet",
    "handler-250": "images are refused by models that see them: their vision does not run here yet",
}
# Recordings in which tokens of tags and of the beginning of a call lose their log-probabilities; here, every token's
# come (tests below).
WITHOUT_LOGPROBS = {"handler-209", "handler-217", "handler-240", "handler-244"}
LOGPROBS = re.compile(r'"logprobs":\[.*?\}\]\}\],?')


def without_logprobs(text: str) -> str:
    return LOGPROBS.sub("", text).replace(",}", "}")


def test_recorded_conversations(tmp_path):
    vectors = [
        v
        for v in json.loads((shared("vectors") / "handlers_inference.json").read_text())
        if v["path"] in ("/api/generate", "/api/chat")
    ]
    applying = [vector for vector in vectors if vector["name"] not in OTHERWISE]
    assert len(applying) == len(vectors) - len(OTHERWISE) > 160

    async def run():
        wrong = []
        async with World(tmp_path) as world:
            for vector in applying:
                status, content_type, text = await world.ask(vector)
                wanted = vector["response"]
                if vector["name"] in WITHOUT_LOGPROBS:
                    assert '"logprobs":[' in text
                    text, wanted = without_logprobs(text), without_logprobs(wanted)
                same_error = "json: cannot unmarshal" in wanted and status == vector["status"]  # Go's type names vary
                same_answer = (status, content_type, text) == (vector["status"], vector["content_type"], wanted)
                good = (same_answer or same_error) and asked_alike(world, vector.get("runner_requests", []))
                if not good:
                    wrong.append(
                        (
                            vector["name"],
                            vector["body"],
                            (status, text[:300]),
                            (vector["status"], vector["response"][:300]),
                        )
                    )
        return wrong

    wrong = asyncio.run(run())
    assert wrong == [], "\n".join(map(str, wrong))


def vector_named(name):
    return next(v for v in json.loads((shared("vectors") / "handlers_inference.json").read_text()) if v["name"] == name)


@pytest.mark.parametrize("name", sorted(WITHOUT_LOGPROBS))
def test_every_token_has_its_log_probability(tmp_path, name):
    """Also tokens that a parser holds back or drops: they come with the next answer that shows something, or with the
    last.
    """
    vector = vector_named(name)

    async def run():
        async with World(tmp_path) as world:
            return [json.loads(line) for line in (await world.ask(vector))[2].splitlines()]

    answers = asyncio.run(run())
    written = [item for piece in vector["runner_pieces"] for item in piece.get("logprobs") or ()]
    got = [item for answer in answers for item in answer.get("logprobs") or ()]
    assert [(item["token"], item["logprob"]) for item in got] == [(item["token"], item["logprob"]) for item in written]
    assert all(item["top_logprobs"] for item in got)
    shown = [answer for answer in answers if not answer["done"]]
    assert all(
        answer["message"]["content"] or answer["message"].get("thinking") or answer["message"].get("tool_calls")
        for answer in shown
    )


@pytest.mark.parametrize("name", ["handler-085", "handler-249", "handler-250"])
def test_images_are_refused_where_a_model_would_see_them(tmp_path, name):
    async def run():
        async with World(tmp_path) as world:
            return await world.ask(vector_named(name))

    status, _, text = asyncio.run(run())
    assert status == 400 and "vision is not implemented" in text and "without images" in text


TEMPLATE = (
    "{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end "
    "}}{{ end }}<assistant>"
)
THINK = {"name": "think", "arch": "qwen3", "create": {"template": TEMPLATE}}


def ask_think(tmp_path, first, second, model=THINK, **body):
    """(contents, thoughts, the requests that the engine got)"""
    vector = {
        "model": model,
        "method": "POST",
        "path": "/api/chat",
        "runner_pieces": pieces(*first),
        "runner_pieces_second_request": pieces(*second),
        "body": json.dumps({"model": model["name"], "messages": [{"role": "user", "content": "Hi"}]} | body),
    }

    async def run():
        async with World(tmp_path) as world:
            status, _, text = await world.ask(vector)
            assert status == 200
            return [json.loads(line)["message"] for line in text.splitlines()], world.engine.requests

    messages, requests = asyncio.run(run())
    return (
        [message["content"] for message in messages],
        "".join(message.get("thinking", "") for message in messages),
        requests,
    )


def test_a_format_holds_although_the_model_does_not_think(tmp_path):
    contents, thoughts, requests = ask_think(tmp_path, ["Hello"], ['{"a": ', "1}"], format="json")
    assert ("".join(contents), thoughts) == ('{"a": 1}', "")
    assert [request.format for request in requests] == ["", '"json"'] and requests[0].prompt == requests[1].prompt


def test_a_format_holds_although_the_model_does_nothing_but_think(tmp_path):
    contents, thoughts, requests = ask_think(tmp_path, ["<think>", "hm"], ['{"a": ', "1}"], format="json")
    assert ("".join(contents), thoughts, len(requests)) == ('{"a": 1}', "hm", 2)


def test_a_format_holds_from_the_beginning_where_thinking_is_off(tmp_path):
    contents, thoughts, requests = ask_think(tmp_path, ['{"a": 1}'], [], format="json", think=False)
    assert ("".join(contents), thoughts, [request.format for request in requests]) == ('{"a": 1}', "", ['"json"'])


def test_text_that_only_began_like_a_tag_is_not_lost(tmp_path):
    contents, thoughts, _ = ask_think(tmp_path, ["<thi"], [])
    assert contents == ["<thi"] and thoughts == ""
    contents, thoughts, _ = ask_think(tmp_path, ["<think>a </th"], [])
    assert thoughts == "a </th"


def test_images_for_a_model_without_vision_are_logged(tmp_path, caplog):
    ask_think(tmp_path, ["Hello"], [], messages=[{"role": "user", "content": "see", "images": ["aW1n"]}])
    assert "think:latest has no vision: of 1 images" in caplog.text


HARMONY_TEMPLATE = (
    "{{ range .Messages }}<|start|>{{ .Role }}<|message|>{{ .Content }}<|end|>{{ end }}"
    "{{ range .Tools }}{{ .Function.Name }} {{ end }}{{ .ThinkLevel }}<|start|>assistant"
)
HARMONY = {"name": "oss", "arch": "gptoss", "create": {"parser": "harmony", "template": HARMONY_TEMPLATE}}
CALLING = "<|end|><|start|>assistant<|channel|>commentary to=functions.get_it <|constrain|>json<|message|>"


def test_a_parser_that_the_model_names(tmp_path):
    """Its thinking and calls. The prompt has the names that the model may use, the answer those of the request. Levels
    of thinking.
    """
    tools = [{"type": "function", "function": {"name": "get.it", "parameters": {"type": "object", "properties": {}}}}]
    vector = {
        "model": HARMONY,
        "method": "POST",
        "path": "/api/chat",
        "runner_pieces": pieces("<|channel|>analysis<|message|>hm", CALLING, "{}"),
        "body": json.dumps(
            {"model": "oss", "messages": [{"role": "user", "content": "Hi"}], "tools": tools, "think": "high"}
        ),
    }

    async def run():
        async with World(tmp_path) as world:
            status, _, text = await world.ask(vector)
            assert status == 200, text
            return [json.loads(line) for line in text.splitlines()], world.tokenizer.prompts

    answers, prompts = asyncio.run(run())
    assert prompts == ["<|start|>user<|message|>Hi<|end|>get_it high<|start|>assistant"]
    assert "".join(answer["message"].get("thinking", "") for answer in answers) == "hm"
    (call,) = answers[-1]["message"]["tool_calls"]
    assert call["function"] == {"index": 0, "name": "get.it", "arguments": {}} and call["id"] == "call_XXXXXXXX"


def test_a_format_after_thoughts_in_harmony(tmp_path):
    first = ["<|channel|>analysis<|message|>hm", "<|end|><|start|>assistant<|channel|>final<|message|>No", " JSON"]
    contents, thoughts, requests = ask_think(tmp_path, first, ['{"a": 1}'], HARMONY, format="json")
    assert ("".join(contents), thoughts, [request.format for request in requests]) == ('{"a": 1}', "hm", ["", '"json"'])


def test_a_call_that_cannot_be_read_ends_the_answer_with_an_error(tmp_path):
    vector = {
        "model": HARMONY,
        "method": "POST",
        "path": "/api/chat",
        "runner_pieces": pieces(
            "<|channel|>final<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.f<|message|>{bad"
        ),
        "body": json.dumps({"model": "oss", "messages": [{"role": "user", "content": "Hi"}]}),
    }

    async def run(stream):
        async with World(tmp_path) as world:
            body = json.loads(vector["body"]) | {"stream": stream}
            return await world.ask(vector | {"body": json.dumps(body)})

    status, _, text = asyncio.run(run(True))
    assert status == 200 and text.splitlines()[-1].startswith('{"error":"error parsing tool call: raw=')
    status, _, text = asyncio.run(run(False))
    assert status == 500 and text.startswith('{"error":"error parsing tool call: raw=')


def test_a_renderer_that_the_model_names(tmp_path):
    coder = {"name": "coder", "arch": "qwen3", "create": {"renderer": "qwen3-coder", "parser": "qwen3-coder"}}
    contents, _, _ = ask_think(tmp_path, ["Hello "], [], coder)
    assert contents == ["Hello", ""]

    async def run():
        async with World(tmp_path) as world:
            await world.ask(
                {
                    "model": coder,
                    "method": "POST",
                    "path": "/api/generate",
                    "runner_pieces": pieces("x"),
                    "body": json.dumps({"model": "coder", "prompt": "Hi", "system": "S"}),
                }
            )
            return world.tokenizer.prompts

    assert asyncio.run(run()) == [
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    ]


def test_the_log_names_options_without_effect(tmp_path, caplog):
    caplog.set_level("INFO")
    ask_think(tmp_path, ["Hello"], [], options={"num_batch": 4, "use_mmap": False, "numa": None, "temperature": 0})
    line = next(record.getMessage() for record in caplog.records if "without effect" in record.getMessage())
    assert "num_batch (" in line and "use_mmap (" in line and "numa" not in line and "temperature" not in line

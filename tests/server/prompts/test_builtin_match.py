"""A built-in Go template replaces a close Jinja template that writes the same prompts."""

import asyncio
import json
import time

import pytest
from manage_models import write_gguf
from scripted_world import WordTokenizer, World, pieces, tiny_gguf
from tiny_gguf import write_tiny_gguf

from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.prompts import jinja
from vkbackend.server.prompts.gotemplate import Template, builtin

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPENING = "{{ bos_token }}"


def matched(tmp_path, text, write=write_gguf, **fields):
    found = jinja.builtin_for(GGUFFile.open(write(tmp_path / "m.gguf", chat_template=text, **fields)))
    return found.name if found else None


def test_builtin_templates_all_parse():
    names = [path.stem for path in builtin.FOLDER.glob("*.gotmpl")]
    assert len(names) == 20
    for name in names:
        Template.parse(builtin.named(name).text)
        assert builtin.named(name).parameters["stop"]


def test_each_known_text_is_closest_to_its_own_template():
    assert [builtin.closest(text).name for text, _ in builtin._index()] == [name for _, name in builtin._index()]


def test_a_text_near_the_known_one_that_writes_the_same_takes_the_builtin_template(tmp_path):
    assert matched(tmp_path, CHATML) == "chatml"
    begin = "{% for message in messages %}"
    default = begin + "{% if loop.first and messages[0]['role'] != 'system' %}{{ 'Be good.' }}{% endif %}"
    assert matched(tmp_path, CHATML.replace(begin, default)) == "chatml"


def test_the_distance_is_ollama_s(tmp_path):
    known = builtin._index()[5][0]
    assert matched(tmp_path, known + "{#" + "x" * 95 + "#}") == "chatml"
    assert matched(tmp_path, known + "{#" + "x" * 96 + "#}") is None


@pytest.mark.parametrize(
    "more",
    [
        pytest.param("{{ '<|im_start|>system\nBy policy P.<|im_end|>\n' }}", id="a policy of its own"),
        pytest.param("{% if tools %}{{ tools | tojson }}{% endif %}", id="tools"),
        pytest.param("{% for t in tools or [] %}{{ t.function.name }}{% endfor %}", id="names of tools"),
        pytest.param("{% if enable_thinking is defined %}/no_think{% endif %}", id="thinking"),
        pytest.param(
            "{% if enable_thinking is defined and not enable_thinking %}/no_think{% endif %}", id="no thinking"
        ),
        pytest.param("{% if messages[2] and '</think>' in messages[2].content %}cut{% endif %}", id="old thoughts"),
        pytest.param("{{ 1 / 0 }}", id="an error"),
        pytest.param("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", id="no end"),
    ],
)
def test_a_near_text_that_writes_something_else_is_kept(tmp_path, more):
    assert builtin.closest(more + CHATML).name == "chatml"
    start = time.monotonic()
    assert matched(tmp_path, more + CHATML) is None
    assert time.monotonic() - start < 30


def test_a_far_text_with_the_same_marks_is_kept(tmp_path):
    text = (
        "{% set date = strftime_now('%d') %}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
        "{{ m.content }}<|eot_id|>{% endfor %}"
    )
    assert matched(tmp_path, text) is None
    assert matched(tmp_path, CHATML + "{# " + "the same prompts, " * 20 + "#}") is None


def test_a_text_that_refuses_system_texts_is_judged_without_them(tmp_path):
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    assert matched(tmp_path, refusal + CHATML) == "chatml"
    assert matched(tmp_path, refusal + "{{ 'x' }}" + CHATML) is None


def test_the_tokens_of_the_file_count(tmp_path):
    """The built-in template does not write bos, which is right only if the tokenizer adds it."""
    assert matched(tmp_path, OPENING + CHATML, write_tiny_gguf, architecture="gemma3") == "chatml"
    assert matched(tmp_path, OPENING + CHATML, write_tiny_gguf, architecture="llama") is None


@pytest.mark.parametrize("text", ["", "{% for", "no template at all", "{{ ''.__class__.__mro__ }}", "x" * 200_000])
def test_no_match(tmp_path, text):
    assert matched(tmp_path, text) is None


def test_the_distance_costs_little_whatever_the_text():
    longest = max((text for text, _ in builtin._index()), key=len)
    start = time.monotonic()
    for text in ("x" * 10_000_000, longest[::-1], "".join(sorted(longest))):
        assert builtin.closest(text) is None
    assert time.monotonic() - start < 1


def test_a_model_keeps_the_tools_and_the_policy_of_its_file(tmp_path, monkeypatch):
    """Through the API: no template is detected, tools are a capability, and the prompt shows the tools."""
    monkeypatch.setattr(WordTokenizer, "bos_id", None, raising=False)
    text = "{{ 'By policy P.' }}{% if tools %}{{ tools[0].function.name }}{% endif %}" + CHATML + "{{ 'verdict:' }}"
    assert builtin.closest(text).name == "chatml"
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": [tool], "stream": False}
    vector = {"method": "POST", "path": "/api/chat", "runner_pieces": pieces("ok"), "body": json.dumps(body)}

    async def run():
        async with World(tmp_path) as world:
            upload = await world.upload(tiny_gguf(tmp_path / "m.gguf", "llama", chat_template=text))
            answer = await world.client.post("/api/create", json={"model": "m", "files": {"m.gguf": upload}})
            created = await answer.text()
            shown = await world.client.post("/api/show", json={"model": "m"})
            status, _, _ = await world.ask(vector)
            return created, await shown.json(), status, list(world.tokenizer.prompts)

    created, shown, status, prompts = asyncio.run(run())
    assert "success" in created and "autodetected" not in created
    assert shown["capabilities"] == ["completion", "tools"]
    assert (status, prompts) == (200, ["By policy P.f<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nverdict:"])

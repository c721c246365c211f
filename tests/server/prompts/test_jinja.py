"""Jinja chat templates of GGUF files: the prompts they write, and the limits on hostile ones."""

import asyncio
import time

import pytest
from scripted_world import World, pieces
from starter_models import model_path
from tiny_gguf import write_tiny_gguf
from tool_vectors import tools

from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.prompts import jinja
from vkbackend.server.prompts.gotemplate import Template, TemplateError, Values
from vkbackend.server.prompts.jinja import worker_process
from vkbackend.tokenizer import Tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"


def prompt(text, *turns, bos="<s>", adds_bos=False, **values):
    messages = [turn if isinstance(turn, dict) else dict(zip(("role", "content"), turn)) for turn in turns]
    return jinja.JinjaTemplate(text, bos, "</s>", adds_bos).execute(Values(messages=messages, **values))


def test_a_real_file_s_template_writes_what_the_matched_one_writes():
    gguf = GGUFFile.open(model_path("smollm2"))
    text, builtin = gguf.metadata.get("tokenizer.chat_template", str), jinja.builtin_for(gguf)
    assert builtin.name == "chatml"
    for turns in (
        [("system", "S"), ("user", "a")],
        [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")],
    ):
        wanted = Template.parse(builtin.text).execute(
            Values(messages=[{"role": role, "content": content} for role, content in turns])
        )
        assert prompt(text, *turns).strip() == wanted.strip()


def test_what_a_template_is_given():
    assert (
        prompt("{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}{{ add_generation_prompt }}", ("user", "hi"))
        == "<s>hi</s>True"
    )
    assert (
        prompt("{{ tools }} {{ documents }} {{ messages[0].tool_calls is defined }}", ("user", "hi"))
        == "None None False"
    )
    assert prompt("{% if tools is not none %}{{ tools | length }}{% endif %}", ("user", "hi"), tools=[]) == ""
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
    }
    assert prompt("{% for t in tools %}{{ t | tojson }}{% endfor %}", ("user", "é<"), tools=[tool]) == (
        '{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": '
        '"string"}}}}}'
    )
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"a": "é"}}}],
    }
    result = {"role": "tool", "content": "1", "tool_name": "f", "tool_call_id": "c1"}
    text = (
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% "
        "endfor %}"
        "{{ m.name }};{% endfor %}"
    )
    assert prompt(text, ("user", "x"), call, result) == ';f{"a": "é"};f;'
    assert prompt("{{ strftime_now('%Y') }}", ("user", "x")) == time.strftime("%Y")
    assert prompt("{% for i in [1, 2] %}{{ messages[0].content }}{% break %}{% endfor %}", ("user", "x")) == "x"
    assert prompt(THINKING, ("user", "x"), think=False, is_think_set=True).endswith(
        "assistant\n<think>\n\n</think>\n\n"
    )
    assert prompt(THINKING, ("user", "x"), think=True, is_think_set=True).endswith("assistant\n")
    assert prompt("{{ reasoning_effort }}", ("user", "x"), think=True, think_level="high", is_think_set=True) == "high"


def test_bos_comes_once():
    assert prompt("{{ bos_token }}a", ("user", "x"), adds_bos=True) == "a"
    assert prompt("<s>a", ("user", "x"), adds_bos=False) == "<s>a"


def test_thoughts_that_come_last_are_closed():
    thinking = {"role": "assistant", "content": "", "thinking": "hm"}
    assert prompt(THINKING, ("user", "x"), thinking).endswith("<|im_start|>assistant\n<think>\nhm\n</think>\n\n")


def test_conversations_that_a_template_refuses_are_made_simpler():
    text = (
        "{% for m in messages %}{% if m.role == 'system' or (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ "
        "raise_exception('no such roles') }}"
        "{% endif %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
    )
    assert (
        prompt(text, ("system", "S"), ("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"))
        == "[user:S\n\na\n\nb][assistant:c][user:d]"
    )
    with pytest.raises(TemplateError, match="no such roles"):
        prompt(text, ("assistant", "a"), ("user", "b"))


def test_calls_in_the_forms_that_templates_want():
    """Some need arguments as text; some need ids of nine characters on calls and results."""
    calls = [{"function": {"name": name, "arguments": {"a": name}}} for name in ("f", "g")]
    turns = [
        ("user", "x"),
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
    ]
    text = (
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name + c.function.arguments }};{% endfor "
        "%}{% endfor %}"
    )
    assert prompt(text, *turns) == 'f{"a": "f"};g{"a": "g"};'
    text = (
        "{% for m in messages %}{% for c in m.tool_calls %}{% if c.id | length < 9 %}{{ raise_exception('ids!') }}{% "
        "endif %}"
        "{{ c.id }} {% endfor %}{% if m.role == 'tool' %}{{ m.tool_call_id }}={{ m.content }} {% endif %}{% endfor %}"
    )
    assert prompt(text, *turns) == "call00000 call00001 call00000=1 call00001=2 "
    turns[2] |= {"tool_call_id": "call00001"}
    assert prompt(text, *turns) == "call00000 call00001 call00001=1 call00000=2 "


@pytest.mark.parametrize(
    "block, written",
    [
        ("{% generation %}\n{{ m.content }}\n{% endgeneration %}\n", "x\n"),
        ("a\n  {% generation %}\n{{ m.content }}{% endgeneration %}\nb", "a\nxb"),
        ("a\n  {%- generation -%}\n  {{ m.content }}\n {%- endgeneration -%}\n b", "axb"),
        ("a {%+ generation %}{{ m.content }}{%endgeneration%} b", "a x b"),
        ("{% generation %}{% set a = 1 %}{% if m %}{% break %}{% endif %}{% endgeneration %}", ""),
    ],
)
def test_generation_blocks_are_tags_as_all_others(block, written):
    assert prompt("{% for m in messages %}" + block + "{% endfor %}", ("user", "x")) == written


def test_a_text_like_a_generation_tag_is_kept():
    assert (
        prompt("{{ '{% generation %}' }}{% raw %}{% endgeneration %}{% endraw %}", ("user", "x"))
        == "{% generation %}{% endgeneration %}"
    )


def test_tokens_that_a_template_may_name(tmp_path):
    file = GGUFFile.open(
        write_tiny_gguf(
            tmp_path / "m.gguf", "gemma3", chat_template="{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}"
        )
    )
    template = jinja.JinjaTemplate.for_tokenizer(jinja.JinjaSource.of(file.metadata), Tokenizer.from_gguf(file))
    assert template.execute(Values(messages=[{"role": "user", "content": "x"}])) == "<eos><unk><pad>"


@pytest.mark.parametrize(
    "text, knows",
    [
        ("{% if tools %}{% endif %}", True),
        ("{{- tools | tojson -}}", True),
        ("{% set xml_tools = tools or [] %}", True),
        ("{{ messages[0].tools }}", True),
        ("{% if 'tools' in m %}{% endif %}", True),
        ("You have no tools. {# tools #}{{ 'a tools text' }}{{ toolset }}", False),
        ("{% raw %}{{ tools }}{% endraw %}", False),
        ("{{ 'tools", False),
    ],
)
def test_tools_are_known_where_the_code_of_a_template_reads_them(text, knows):
    assert jinja.knows_tools(text) is knows


@pytest.mark.parametrize(
    "text, told",
    [
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% for i in range(1000000) %}{% endfor %}", "Range too big"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "too much time or memory"),
        ("{{ 'a' * 4000000000 }}", "too much time or memory"),
        (
            "{% set x = namespace(a='aaaaaaaa') %}{% for a in range(99) %}{% set x.a = x.a + x.a %}{% endfor %}",
            "too much time or memory",
        ),
        ("{{ 'a' * 20000000 }}", "more than 16777216 characters"),
        ("{% if %}", "Expected an expression"),
        ("{{ nothing.at.all }}", "undefined"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ],
)
def test_hostile_templates(text, told):
    start = time.monotonic()
    with pytest.raises(TemplateError, match=told):
        prompt(text, ("user", "x"))
    assert time.monotonic() - start < 60  # two seconds of processor time, on a machine that may be busy
    assert prompt(CHATML, ("user", "y")) == "<|im_start|>user\ny<|im_end|>\n<|im_start|>assistant\n"


def test_the_process_can_open_nothing():
    """The process itself cannot do what the sandbox forbids, in case the sandbox fails."""
    import subprocess
    import sys

    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nimport worker, os, "
        "socket\nworker.make_environment()\nworker.limit_resources()\n"
        "for act in (lambda: open('/etc/passwd'), lambda: socket.socket(), lambda: os.pipe()):\n"
        "    try: act()\n    except OSError as error: print(error.errno)\n    else: print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(worker_process.WORKER.parent)], capture_output=True, text=True
    )
    assert done.stdout.split() == ["24"] * 3, done.stderr  # EMFILE


def test_a_worker_that_ended_is_started_again():
    worker = worker_process.Worker()
    try:
        assert worker.ask("{{ a }}", {"a": 1}) == {"text": "1"}
        worker._process.kill()
        worker._process.wait()
        assert worker.ask("{{ a }}", {"a": 2}) == {"text": "2"}
    finally:
        worker.close()


def test_a_worker_that_does_not_start(monkeypatch, tmp_path):
    monkeypatch.setattr(worker_process, "WORKER", tmp_path / "nothing.py")
    monkeypatch.setattr("vkbackend.server.prompts.jinja.template.worker", worker_process.Worker())
    with pytest.raises(TemplateError, match="cannot start the process"):
        prompt(CHATML, ("user", "x"))


def test_a_prompt_costs_little():
    """The process is kept: a prompt takes milliseconds, starting a process takes tenths of a second."""
    prompt(CHATML, ("user", "x"))
    start = time.monotonic()
    for number in range(50):
        prompt(CHATML, ("user", str(number)))
    assert (time.monotonic() - start) / 50 < 0.1


# Unlike any built-in template.
STRANGE = (
    "{% for m in messages %}~{{ m.role }}~ {{ m.content }} {% endfor %}{% if tools %}T:{{ tools[0].function.name }} "
    "{% endif %}"
    "{% if add_generation_prompt %}~assistant~{% endif %}{# <tool_call> <think> </think> #}"
)


def test_a_model_whose_file_has_an_unknown_template(tmp_path, monkeypatch):
    """Prompts, tool calls, thinking and capabilities come from the file's template, unless a TEMPLATE is given."""
    from scripted_world import WordTokenizer

    monkeypatch.setattr(WordTokenizer, "bos_id", None, raising=False)
    strange = {"name": "strange", "arch": "llama", "create": {}, "chat_template": STRANGE}
    told = strange | {"name": "told", "create": {"template": "{{ .Prompt }}"}}
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
    }
    written = pieces("<think>hm</think>", 'Yes. <tool_call>{"name": "f", "arguments": {"a": "b"}}</tool_call>')
    assert tools([tool])

    def ask(model, path="/api/chat", **body):
        import json

        messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]
        request = (
            {"model": model["name"], "stream": False} | ({"messages": messages} if path == "/api/chat" else {}) | body
        )
        return {"model": model, "method": "POST", "path": path, "runner_pieces": written, "body": json.dumps(request)}

    async def run():
        import json

        async with World(tmp_path) as world:

            async def get(vector):
                return json.loads((await world.ask(vector))[2]), list(world.tokenizer.prompts)

            chat, prompts = await get(ask(strange, tools=[tool]))
            assert prompts == ["~system~ S ~user~ Hi T:f ~assistant~"]
            assert (chat["message"]["thinking"], chat["message"]["content"]) == ("hm", "Yes. ")
            assert chat["message"]["tool_calls"][0]["function"] == {"index": 0, "name": "f", "arguments": {"a": "b"}}
            generated, prompts = await get(ask(strange, "/api/generate", prompt="Go", system="S"))
            assert prompts == ["~system~ S ~user~ Go ~assistant~"] and generated["thinking"] == "hm"
            shown, _ = await get(ask(strange, "/api/show"))
            assert shown["capabilities"] == ["completion", "tools", "thinking"] and shown["template"] == "{{ .Prompt }}"
            _, prompts = await get(ask(told))
            assert prompts == ["Hi"]
            return await get(ask(told, tools=[tool]))

    answer, _ = asyncio.run(run())
    assert "does not support tools" in answer["error"]

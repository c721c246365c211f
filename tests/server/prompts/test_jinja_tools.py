"""Tools in a file's Jinja template: where it reads them, and the tag it writes before a call."""

import pytest
from gguf import GGUFWriter
from tiny_gguf import write_tiny_gguf
from tool_vectors import tools

from vkbackend.gguf.reader import GGUFFile
from vkbackend.server.output_parsers import by_template
from vkbackend.server.prompts import jinja
from vkbackend.server.prompts.gotemplate import Values
from vkbackend.tokenizer import Tokenizer

TOOL = {"type": "function", "function": {"name": "f"}}
AS_JSON = '[{"type": "function", "function": {"name": "f"}}]'
TURNS = "{% for m in messages %}[{{ m.role }}:{{ m.content }}"
HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def prompt(text, *turns, **values):
    messages = [dict(zip(("role", "content"), turn)) for turn in turns]
    return jinja.JinjaTemplate(text).execute(Values(messages=messages, **values))


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param("{{ '|' + m['tools'] }}", id="as text"),
        pytest.param("|{% for t in m['tools'] %}{{ [t] | tojson }}{% endfor %}", id="as a list"),
    ],
)
def test_tools_stand_in_the_system_message_where_a_template_reads_them_there(shown):
    text = TURNS + "{% if 'tools' in m and m['tools'] is not none %}" + shown + "{% endif %}]{% endfor %}"
    assert prompt(text, ("user", "x"), tools=[TOOL]) == f"[system:|{AS_JSON}][user:x]"
    assert prompt(text, ("system", "S"), ("user", "x"), tools=[TOOL]) == f"[system:S|{AS_JSON}][user:x]"
    assert prompt(text, ("user", "x")) == "[user:x]"


def test_the_variable_comes_before_a_key_of_messages():
    text = "{{ tools | tojson }}{% for m in messages %}{{ m.tools }}{% endfor %}"
    assert prompt(text, ("user", "x"), tools=[TOOL]) == AS_JSON


def test_a_template_that_needs_tools_writes_conversations_without_any():
    assert prompt("{% for t in tools %}{{ t }}{% endfor %}" + TURNS + "]{% endfor %}", ("user", "x")) == "[user:x]"


def test_a_template_that_hides_the_tools_of_a_request_is_logged(caplog):
    assert (
        prompt("{% if documents %}{{ tools }}{% endif %}" + TURNS + "]{% endfor %}", ("user", "x"), tools=[TOOL])
        == "[user:x]"
    )
    assert "does not show the tools" in caplog.text


def test_a_file_s_template_for_tools_takes_the_place_of_the_other(tmp_path, monkeypatch):
    plain, with_tools = TURNS + "]{% endfor %}", "T{{ tools | tojson }}<|call|>{% for m in messages %}{% endfor %}"
    add = GGUFWriter.add_chat_template
    monkeypatch.setattr(
        GGUFWriter,
        "add_chat_template",
        lambda self, text: add(self, text) or self.add_string("tokenizer.chat_template.tool_use", with_tools),
    )
    file = GGUFFile.open(write_tiny_gguf(tmp_path / "m.gguf", chat_template=plain))
    source = jinja.JinjaSource.of(file.metadata)
    template = jinja.JinjaTemplate.for_tokenizer(source, Tokenizer.from_gguf(file))
    messages = [{"role": "user", "content": "x"}]
    assert template.execute(Values(messages=messages)) == "[user:x]"
    assert template.execute(Values(messages=messages, tools=[TOOL])) == f"T{AS_JSON}<|call|>"
    assert jinja.knows_tools(source.with_tools) and not jinja.knows_tools(source.text)


def with_calls(call, content="{{ m.content }}<|im_end|>\n"):
    return (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% for c in m.tool_calls or [] %}"
        + call
        + "<|im_end|>\n{% else %}"
        + content
        + "{% endfor %}{% endfor %}"
        + HEADER
    )


JSON = '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'


@pytest.mark.parametrize(
    "text, tag",
    [
        pytest.param(with_calls("<|do|>" + JSON + "<|done|>"), "<|do|>", id="a tag"),
        pytest.param(with_calls("<|do|>[" + JSON + "]"), "<|do|>", id="a tag and a list"),
        pytest.param(with_calls("[CALLS] [" + JSON + "]"), "[CALLS]", id="a tag in brackets"),
        pytest.param(with_calls("<|all|><|one|>function<|sep|>{{ c.function.name }}"), "<|all|>", id="several tags"),
        pytest.param(
            with_calls("<do={{ c.function.name }}>{{ c.function.arguments | tojson }}"),
            "<do=",
            id="a name inside of a tag",
        ),
        pytest.param(with_calls("<|do|>" + JSON, "<|say|>{{ m.content }}"), "<|do|>", id="tags that begin alike"),
        pytest.param(with_calls("<think>\n</think>\n<|do|>" + JSON), "<|do|>", id="behind thoughts"),
        pytest.param(
            with_calls("<|do|>{{ c.function.name + c.function.arguments }}"), "<|do|>", id="arguments as text"
        ),
        pytest.param(with_calls("Action: " + JSON), "Action:", id="a word"),
        pytest.param(with_calls(JSON), "{", id="an object"),
        pytest.param(with_calls("<tool_call>" + JSON + "</tool_call>"), "<tool_call>", id="a tag that many use"),
        pytest.param("{{ tools }}" + TURNS + "]{% endfor %}", "{", id="no calls"),
        pytest.param(TURNS + "<|do|>]{% endfor %}", "{", id="no tools"),
    ],
)
def test_the_tag_of_calls_is_what_a_template_writes_before_one(text, tag):
    assert jinja.JinjaTemplate(text).call_format().tag == tag


def test_calls_that_are_no_json_are_read():
    text = with_calls(
        "<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments.items() %}"
        "<parameter={{ k }}>\n{{ v }}\n</parameter>\n"
        "{% endfor %}</function>\n</tool_call>"
    )
    known = tools(
        [
            {
                "type": "function",
                "function": {"name": "f", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}},
            }
        ]
    )
    parser = by_template("", None, jinja.JinjaTemplate(text).call_format(), known)
    answer = "Yes.\n<tool_call>\n<function=f>\n<parameter=n>\n3\n</parameter>\n"
    answer += "<parameter=s>\na\nb\n</parameter>\n</function>\n</tool_call>"
    parsed = parser.add(answer, done=True)
    assert (parsed.content, parsed.calls[0].function.name, parsed.calls[0].function.arguments) == (
        "Yes.",
        "f",
        {"n": 3, "s": "a\nb"},
    )


@pytest.mark.parametrize(
    "opening, closing",
    [
        ("<think>", "</think>"),
        ("[THINK]", "[/THINK]"),
        ("<seed:think>", "</seed:think>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
    ],
)
def test_thoughts_are_found_by_the_tags_of_a_template(opening, closing):
    assert jinja.thinking_tags("{{ '" + opening + "' }}{{ m.content.split('" + closing + "') }}") == (opening, closing)
    assert jinja.thinking_tags("{{ m.thinking }}") == ("", "")

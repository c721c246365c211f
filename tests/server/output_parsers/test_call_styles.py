"""Tool calls in the styles of many models: the template tells the format, and answers are read however they are cut."""

import time

import pytest
from tool_vectors import tools

from vkbackend.server.output_parsers import by_template
from vkbackend.server.prompts.call_format import CallShape
from vkbackend.server.prompts.gotemplate import Values
from vkbackend.server.prompts.jinja import JinjaTemplate

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "d",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "name": {"type": "string"},
                    "tags": {"type": "array"},
                },
            },
        },
    }
    for name in ("get_weather", "get_time")
]
FIRST = {"city": "São Paulo {x}", "days": 3, "name": "get_time"}
SECOND = {"city": "Oslo", "tags": ["a", "b"]}


def template(calls: str, answer: str = "{{ m.content }}", header: str = "<|assistant|>\n") -> str:
    """calls: what is written for `m.tool_calls`; every message ends with <|end|>."""
    return (
        "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        + header
        + "{% if m.tool_calls %}"
        + calls
        # the answer of a message without calls
        + "{% else %}"
        + answer
        + "{% endif %}<|end|>\n{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}" + header + "{% endif %}"
    )


def each(call: str, before: str = "", after: str = "", between: str = "") -> str:
    gap = "{% if not loop.last %}" + between + "{% endif %}"
    return before + "{% for c in m.tool_calls %}{% set f = c.function %}" + call + gap + "{% endfor %}" + after


def elements(element: str) -> str:
    value = "{{ v if v is string else v | tojson }}"
    return "{% for k, v in f.arguments.items() %}" + element.replace("VALUE", value) + "{% endfor %}"


OBJECT = "{{ f.arguments | tojson }}"
PLAIN = '{"name": "{{ f.name }}", "arguments": ' + OBJECT + "}"
PYTHON = (
    "{{ f.name }}({% for k, v in f.arguments.items() %}{{ k }}={{ v | tojson }}{{ ', ' if not loop.last }}{% endfor %})"
)
STYLES = {  # how a template writes calls, and the shape that this is
    "GLM-4.5": (
        template(
            each(
                "\n<tool_call>{{ f.name }}\n"
                + elements("<arg_key>{{ k }}</arg_key>\n<arg_value>VALUE</arg_value>\n")
                + "</tool_call>"
            )
        ),
        CallShape.ELEMENTS,
    ),
    "Seed-OSS": (
        template(
            each(
                "<seed:tool_call>\n<function={{ f.name }}>\n"
                + elements("<parameter={{ k }}>VALUE</parameter>\n")
                + "</function>\n</seed:tool_call>"
            )
        ),
        CallShape.ELEMENTS,
    ),
    "Qwen3-Coder": (
        template(
            each(
                "\n<tool_call>\n<function={{ f.name }}>\n"
                + elements("<parameter={{ k }}>\nVALUE\n</parameter>\n")
                + "</function>\n</tool_call>"
            )
        ),
        CallShape.ELEMENTS,
    ),
    "MiniMax": (
        template(
            each(
                '<invoke name="{{ f.name }}">\n'
                + elements('<parameter name="{{ k }}">VALUE</parameter>\n')
                + "</invoke>\n",
                "\n<mini:tool_call>\n",
                "</mini:tool_call>",
            )
        ),
        CallShape.ELEMENTS,
    ),
    "LFM2": (template(each(PYTHON, "<|tool_call_start|>[", "]<|tool_call_end|>", ", ")), CallShape.PYTHON),
    "pythonic": (template(each(PYTHON, "[", "]", ", ")), CallShape.PYTHON),
    "functionary": (
        template(each("{{ f.name }}\n" + OBJECT, between=">>>"), "all\n{{ m.content }}", "<|assistant|>\n>>>"),
        CallShape.NAMED_JSON,
    ),
    "Mistral Small": (template(each("[TOOL_CALLS]{{ f.name }}[ARGS]" + OBJECT)), CallShape.NAMED_JSON),
    "Mistral Nemo": (template(each(PLAIN, "[TOOL_CALLS][", "]", ", ")), CallShape.JSON),
    "DeepSeek-R1": (
        template(
            each(
                "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ f.name }}\n```json\n"
                + OBJECT
                + "\n```<｜tool▁call▁end｜>",
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁calls▁end｜>",
                "\n",
            )
        ),
        CallShape.NAMED_JSON,
    ),
    "DeepSeek-V3.1": (
        template(
            each(
                "<｜tool▁call▁begin｜>{{ f.name }}<｜tool▁sep｜>" + OBJECT + "<｜tool▁call▁end｜>",
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁calls▁end｜>",
            )
        ),
        CallShape.NAMED_JSON,
    ),
    "Kimi": (
        template(
            each(
                "<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>" + OBJECT + "<|tool_call_end|>",
                "<|tool_calls_section_begin|>",
                "<|tool_calls_section_end|>",
            )
        ),
        CallShape.NAMED_JSON,
    ),
    "Granite": (template(each(PLAIN, "<|tool_call|>[", "]", ", ")), CallShape.JSON),
    "Hermes": (
        "You may call functions within <tools></tools>; for each call return <tool_call></tool_call>"
        + template(each("<tool_call>\n" + PLAIN + "\n</tool_call>", between="\n")),
        CallShape.JSON,
    ),
    "Command-A": (
        template(
            each(
                '    {"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ f.name }}", "parameters": ' + OBJECT + "}",
                "<|START_ACTION|>[\n",
                "\n]<|END_ACTION|>",
                ",\n",
            )
        ),
        CallShape.JSON,
    ),
    "one call only": (
        template(
            "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call') }}{% endif %}"
            + each("<call>{{ f.name }}\n" + OBJECT + "</call>")
        ),
        CallShape.NAMED_JSON,
    ),
}


def answer_of(text: str, content: str, *calls: dict) -> str:
    """What the template writes for a message with these calls, with content before them."""
    ids = [f"functions.{name}:{at}" for at, name in enumerate(("get_weather", "get_time"))]
    tool_calls = [
        {"id": call_id, "function": {"name": call_id.split(".")[1].split(":")[0], "arguments": arguments}}
        for call_id, arguments in zip(ids, calls)
    ]
    from vkbackend.server.prompts.jinja.forms import written

    shown = written(text, [{"role": "assistant", "content": "", "tool_calls": tool_calls}], asks=False)
    begin = written(text, [], asks=True)
    return content + shown.removeprefix(begin).removesuffix("<|end|>\n")


def read(text: str, pieces: list[str], prompt: str = "") -> tuple[str, list]:
    parser = by_template(prompt, None, JinjaTemplate(text).call_format(), tools(TOOLS))
    parsed = [parser.add(piece) for piece in pieces] + [parser.add("", done=True)]
    calls = [(call.function.name, call.function.arguments) for each in parsed for call in each.calls]
    return "".join(each.content for each in parsed), calls


def cuts(answer: str) -> list[list[str]]:
    return [[answer], list(answer)] + [[answer[:at], answer[at:]] for at in range(1, len(answer))]


@pytest.mark.parametrize("style", STYLES)
def test_the_template_determines_the_shape(style):
    text, shape = STYLES[style]
    assert JinjaTemplate(text).call_format().shape is shape


@pytest.mark.parametrize("style", STYLES)
def test_calls_are_read_however_an_answer_is_cut(style):
    text, shape = STYLES[style]
    prompt = "<|assistant|>\n>>>" if style == "functionary" else ""
    wanted = [("get_weather", FIRST)] + ([("get_time", SECOND)] if style != "one call only" else [])
    answer = answer_of(text, "", *(arguments for _, arguments in wanted))
    for pieces in cuts(answer):
        assert read(text, pieces, prompt) == ("", wanted), pieces


@pytest.mark.parametrize(
    "style", [name for name in STYLES if name != "pythonic"]
)  # a bracket begins a call only at the start
def test_text_around_calls_is_content(style):
    text, shape = STYLES[style]
    prompt, before = "", "Let me look.\n"
    call = answer_of(text, "", FIRST)
    if style == "functionary":
        prompt, call, before = "<|assistant|>\n>>>", ">>>" + call, "all\nLet me look."
    after = "" if shape is CallShape.JSON else "\nDone <b>[1]"  # JSON calls: as Ollama, which reads no text after them
    if style == "functionary":
        after = ">>>all\nDone <b>[1]"
    content = "Let me look." + ("" if shape is CallShape.JSON else "Done <b>[1]")
    for pieces in cuts(before + call + after):
        got, calls = read(text, pieces, prompt)
        assert (got.rstrip(), calls) == (content, [("get_weather", FIRST)]), pieces


@pytest.mark.parametrize("style", STYLES)
def test_an_answer_without_calls_is_kept_to_the_letter(style):
    text, _ = STYLES[style]
    answer = "a [1] < b\n {x} <tool > >> [TOOL] f(a=1) `c` \n"
    wanted, prompt = answer, ""
    if style == "functionary":
        answer, prompt = "all\n" + answer, "<|assistant|>\n>>>"
    for pieces in cuts(answer):
        assert read(text, pieces, prompt) == (wanted, []), pieces


@pytest.mark.parametrize(
    "style", [name for name, (_, shape) in STYLES.items() if shape is not CallShape.JSON and name != "functionary"]
)
def test_what_only_begins_like_a_call_is_content(style):
    text, _ = STYLES[style]
    call = answer_of(text, "", FIRST)
    for size in range(1, call.index("city")):
        got, calls = read(text, list(call[:size]))
        assert calls == [] and got == call[:size], call[:size]


@pytest.mark.parametrize("calls", ["", each(PLAIN, "<|tool_call_start|>[", "]<|tool_call_end|>", ", ")])
def test_lfm2_writes_python_whatever_its_template_shows(calls):
    text = template(calls) + "{{ '<|tool_list_start|>' if tools }}"
    wanted = [("get_weather", {"city": "Oslo", "days": -2})]
    for pieces in cuts('Hm. <|tool_call_start|>[get_weather(city="Oslo", days=-2)]<|tool_call_end|>'):
        assert read(text, pieces) == ("Hm.", wanted)
    as_json = '<|tool_call_start|>[{"name": "get_weather", "arguments": {"city": "Oslo", "days": -2}}]<|tool_call_end|>'
    for pieces in cuts(as_json):
        assert read(text, pieces) == ("", wanted)


def test_kimi_is_known_by_its_list_of_tools():
    text = "{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}{% endif %}" + template("")
    answer = "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_time:0<|tool_call_argument_begin|>"
    answer += '{"city": "Oslo"}<|tool_call_end|><|tool_calls_section_end|>'
    for pieces in cuts(answer):
        assert read(text, pieces) == ("", [("get_time", {"city": "Oslo"})])


def test_ids_hold_names_where_a_history_shows_them_only_there():
    calls = [{"id": "abc", "function": {"name": "get_time", "arguments": {}}}]
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "noon", "tool_call_id": "abc"},
    ]
    shows_id = "{% for m in messages if m.role == 'tool' %}[{{ m.tool_call_id }}]{% endfor %}"
    prompt = JinjaTemplate(STYLES["Kimi"][0] + shows_id).execute(Values(messages=messages))
    assert "functions.get_time:0<|tool_call_argument_begin|>" in prompt and "[functions.get_time:0]" in prompt
    prompt = JinjaTemplate(STYLES["Mistral Small"][0] + shows_id).execute(Values(messages=messages))
    assert "[abc]" in prompt


def test_a_call_without_arguments():
    text = STYLES["GLM-4.5"][0]
    assert read(text, list("<tool_call>get_time\n</tool_call>")) == ("", [("get_time", {})])
    text = STYLES["Seed-OSS"][0]
    answer = "<seed:tool_call>\n<function=get_time>\n</function>\n</seed:tool_call>"
    assert read(text, list(answer)) == ("", [("get_time", {})])


@pytest.mark.parametrize("style", ["GLM-4.5", "Seed-OSS"])
def test_a_call_is_read_without_its_closing_mark_at_the_end_of_an_answer(style):
    text, _ = STYLES[style]
    call = answer_of(text, "", FIRST)
    assert read(text, list(call[: call.rindex("</")])) == ("", [("get_weather", FIRST)])


@pytest.mark.parametrize("style", ["GLM-4.5", "Mistral Small", "LFM2"])
@pytest.mark.parametrize("value", ['x<arg_key>"{', "<tool_call>f[TOOL_CALLS]f[ARGS] ", None])
def test_long_answers_take_linear_time(style, value):
    text = STYLES[style][0]
    if value is None:  # a call that never comes to its arguments
        answer = answer_of(text, "", {}).partition("get_weather")[0] + "x" * 200_000
    else:
        answer = answer_of(text, "", {"city": value * 8_000})
    parser = by_template("", None, JinjaTemplate(text).call_format(), tools(TOOLS))
    begin = time.process_time()
    for at in range(0, len(answer), 50):
        parser.add(answer[at : at + 50])
    parser.add("", done=True)
    assert time.process_time() - begin < 1  # measured 0.25 at most; 1.6 where a text is searched again at each piece

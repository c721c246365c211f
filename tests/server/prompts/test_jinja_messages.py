"""Messages in a file's Jinja template: content as typed parts, and answers to continue."""

import pytest

from vkbackend.server.prompts import jinja
from vkbackend.server.prompts.gotemplate import TemplateError, Values

PARTS = "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}{% endfor %}"
TALK = [("user", "hello"), ("assistant", "yo"), ("user", "bye")]
PLAIN = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def prompt(text, *turns, **values):
    messages = [turn if isinstance(turn, dict) else dict(zip(("role", "content"), turn)) for turn in turns]
    return jinja.JinjaTemplate(text).execute(Values(messages=messages, **values))


def loop(body, begins="<ai>"):
    return (
        "{% for m in messages %}<{{ m['role'] }}>"
        + body
        + "{% endfor %}{% if add_generation_prompt %}"
        + begins
        + "{% endif %}"
    )


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(PARTS, id="parts"),
        pytest.param(
            "{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}"
            "{% elif c.type == 'image' %}<image>{% endif %}{% endfor %}",
            id="a loop",
        ),
        pytest.param("{% for c in m.content %}{{ c['text'] + '' }}{% endfor %}", id="an error for a text"),
        pytest.param("{{ m.content[0].text }}", id="the first part"),
        pytest.param("{% if m.content is string %}{{ m.content }}{% else %}PARTS{% endif %}", id="both, text first"),
        pytest.param(
            "{% if m.content is iterable and m.content is not string %}PARTS{% else %}{{ m.content }}{% endif %}",
            id="both, parts first",
        ),
        pytest.param("{% if m.content is mapping %}{% endif %}{{ m.content | trim }}", id="text"),
        pytest.param(
            "{% if m.role == 'user' %}" + PARTS + "{% else %}{{ '' + m.content }}{% endif %}", id="parts of users only"
        ),
        pytest.param(
            "{% if m.role == 'assistant' %}" + PARTS + "{% else %}{{ m.content | trim }}{% endif %}",
            id="parts of answers only",
        ),
    ],
)
def test_content_comes_in_the_form_that_a_template_takes(body):
    assert prompt(loop(body), *TALK) == "<user>hello<assistant>yo<user>bye<ai>"
    assert prompt(loop(body), ("system", "S"), *TALK) == "<system>S<user>hello<assistant>yo<user>bye<ai>"
    assert prompt(loop(body), *TALK, ("assistant", "I ")) == "<user>hello<assistant>yo<user>bye<assistant>I "


def test_results_of_tools_come_as_parts_too():
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    assert prompt(loop(PARTS), ("user", "x"), call, ("tool", "1")) == "<user>x<assistant><tool>1<ai>"


def test_a_template_that_drops_what_the_user_says_is_logged(caplog):
    assert prompt("no words of yours", *TALK) == "no words of yours"
    assert "does not show user messages" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        "e",
        "<",
        "end",
        '{"a": ',
        " lead",
        "trail \n",
        "  ",
        "Q",
        "[assistant]",
        "assistant",
        "\\1",
        "{{ x }}",
        "é\u2028",
    ],
)
@pytest.mark.parametrize(
    "template",
    [
        pytest.param(PLAIN, id="as it is"),
        pytest.param(PLAIN.replace("m['content'] +", "m['content'] | trim +"), id="trimmed"),
        pytest.param(PLAIN.replace("m['content'] +", "m['content'] | upper +"), id="rewritten"),
        pytest.param(
            "{% if messages[-1].role == 'assistant' %}{% set messages = messages[:-1] %}"
            "{% set add_generation_prompt = true %}{% endif %}" + PLAIN,
            id="dropped",
        ),
        pytest.param(
            "{% if messages[-1].role != 'user' %}{{ raise_exception('the user comes last') }}{% endif %}" + PLAIN,
            id="refused",
        ),
    ],
)
def test_an_answer_that_comes_last_is_continued_exactly(template, content):
    assert prompt(template, ("user", "Q"), ("assistant", content)) == "[user]Q<end>[assistant]" + content


def test_an_answer_that_a_template_shows_twice_is_continued_at_its_last_place():
    template = "<{{ messages[-1].content }}>" + PLAIN
    assert prompt(template, ("user", "Q"), ("assistant", "e ")) == "<e >[user]Q<end>[assistant]e "


def test_the_way_to_an_answer_is_the_template_s_own():
    """It may differ from the prompt for a new answer."""
    loop_of_messages = "{% for m in messages %}[{{ m.role }}]{{ ' ' + m.content | trim + ';' }}{% endfor %}"
    template = loop_of_messages + "{% if add_generation_prompt %}[new]{% endif %}"
    assert prompt(template, ("user", "Q"), ("assistant", " e")) == "[user] Q;[assistant]  e"


CUTS = (
    "{% for m in messages %}[{{ m.role }}]{% set c = m.content %}{% if '</think>' in c %}"
    "{% set c = c.split('</think>')[-1] | trim %}{% endif %}"
    "{{ c }}<end>{% endfor %}{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
)
FILLS = (
    "{% for m in messages %}[{{ m.role }}]{% if loop.last and m.role == 'assistant' %}"
    "{% if '</think>' in m.content %}<think>\n{{ m.content.split('</think>')[0].split('<think>')[-1].strip() "
    "}}\n</think>\n\n"
    "{{ m.content.split('</think>')[-1].lstrip() }}{% else %}<think>\n\n</think>\n\n{{ m.content }}{% endif %}"
    "{% else %}{{ m.content }}{% endif %}<end>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.mark.parametrize(
    "content",
    ["<think>\nHm.\n</think>\n\nThe", "<think> Hm.</think>The ", "<think>\nHm", "<think>", "<think>a</think>"],
)
@pytest.mark.parametrize(
    "template", [CUTS, FILLS, FILLS.replace("{% else %}<think>\n\n</think>\n\n{{", "{% else %}</think>{{")]
)
def test_thoughts_in_an_answer_that_is_continued_are_kept(template, content):
    assert prompt(template, ("user", "Q"), ("assistant", content)) == "[user]Q<end>[assistant]" + content


def test_thoughts_that_the_prompt_began_are_closed_where_they_are():
    assert (
        prompt(CUTS, ("user", "Q"), ("assistant", "Hm.\n</think>\n\nThe"))
        == "[user]Q<end>[assistant]<think>\nHm.\n</think>\n\nThe"
    )
    assert prompt(CUTS, ("user", "Q"), ("assistant", "The")) == "[user]Q<end>[assistant]The"
    assert prompt(FILLS, ("user", "Q"), ("assistant", "The")) == "[user]Q<end>[assistant]<think>\n\n</think>\n\nThe"


@pytest.mark.parametrize(
    "part", ["m.content[:3]", "m.content[-3:]", "m.content | list | first", "m.content[1:] | string"]
)
def test_a_template_that_shows_a_part_of_the_text_is_given_the_text(part):
    shown = prompt(loop("{{ " + part + " }}"), ("user", "hello"))
    assert shown.removeprefix("<user>").removesuffix("<ai>") in "hello"


def test_the_error_is_about_the_conversation_that_the_client_sent():
    """Without the lone answer no message is left, which is an error of its own."""
    template = "{% if messages[0].role != 'user' %}{{ raise_exception('the user must begin') }}{% endif %}"
    with pytest.raises(TemplateError, match="the user must begin"):
        prompt(template, ("assistant", "I"))


def test_a_template_that_fails_with_and_without_an_answer_says_why():
    with pytest.raises(TemplateError, match="never"):
        prompt("{{ raise_exception('never') }}", ("user", "Q"), ("assistant", "e"))

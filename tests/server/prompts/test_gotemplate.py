"""Go templates: the recorded behaviour of Ollama 0.12.11, and malformed and hostile texts."""

import base64
import json
import time
from datetime import date

import pytest
from shared_data import shared

from vkbackend.server.prompts.gotemplate import Template, TemplateError, Values
from vkbackend.server.prompts.gotemplate.formatting import sprint, sprintf


def vectors(name):
    return json.loads((shared("vectors") / f"{name}.json").read_text())


def run(vector):
    """Return (stage of a failure or None, text)."""
    try:
        return None, Template.parse(vector["template"]).execute(Values(**vector["values"]))
    except TemplateError as error:
        return error.stage, str(error)


def expected(vector):
    if "error" in vector:
        return vector["stage"], vector["error"]
    text = (
        vector["output"]
        if "output" in vector
        else base64.b64decode(vector["output_b64"]).decode("utf-8", "surrogateescape")
    )
    return None, text.replace("<<CURRENT_DATE>>", date.today().isoformat())


@pytest.mark.parametrize("name", ["template_builtin", "template_wild", "template_features", "template_errors"])
def test_recorded_templates(name):
    checked = [vector for vector in vectors(name) if not vector.get("panic")]
    assert len(checked) > 100
    wrong = [vector["name"] for vector in checked if run(vector) != expected(vector)]
    assert wrong == []


def test_what_panics_there_is_a_clean_error_here():
    panics = [vector for vector in vectors("template_errors") if vector.get("panic")]
    assert panics and all(run(vector)[0] == "execute" for vector in panics)


def test_recorded_variables():
    wrong = [
        vector["name"]
        for vector in vectors("template_vars")
        if Template.parse(vector["template"]).vars() != vector["vars"]
    ]
    assert wrong == []


def render(text, **values):
    return Template.parse(text).execute(Values(**values))


def test_errors_name_line_and_column_in_bytes():
    with pytest.raises(
        TemplateError,
        match=r'template: :2:5: executing "" at <index .Messages 9>: error calling index: index out of range: 9',
    ):
        render("a\né{{ index .Messages 9 }}", messages=[{"role": "user", "content": "x"}])


def test_endless_recursion_is_an_error():
    with pytest.raises(TemplateError, match="exceeded maximum template depth"):
        render('{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}{{ .Messages }}')


def doubled(last):
    """40 templates, each calling the next one twice."""
    calls = "".join(
        f'{{{{define "t{i}"}}}}{{{{template "t{i + 1}" .}}}}{{{{template "t{i + 1}" .}}}}{{{{end}}}}' for i in range(40)
    )
    return f'{calls}{{{{define "t40"}}}}{last}{{{{end}}}}{{{{template "t0" .}}}}'


@pytest.mark.parametrize(
    "text",
    [
        "{{range 1000000000}}{{end}}",
        "{{range 1000000000}}x{{end}}",
        doubled(""),
        doubled("x"),
        '{{$x := "a"}}{{range 40}}{{$x = printf "%s%s" $x $x}}{{end}}',
        '{{$x := "<"}}{{range 40}}{{$x = js (print $x $x)}}{{end}}',
        "{{$a := 1}}" + "{{$b := 1}}" * 9000 + "{{range 9000}}{{$a}}{{end}}",
        '{{$x := "a"}}{{range 23}}{{$x = print $x $x}}{{end}}{{print ' + "$x " * 1000 + "}}",
    ],
    ids=["loop", "writing loop", "calls", "writing calls", "doubling", "escaping", "variables", "arguments"],
)
def test_a_template_costs_neither_all_time_nor_all_memory(text):
    """Go's engine would run each of these until memory ends; one of them ended the whole server."""
    started = time.process_time()
    with pytest.raises(TemplateError, match="more than [0-9]+ (steps|characters)"):
        render("{{if .Messages}}{{end}}" + text)
    assert time.process_time() - started < 15


def test_what_is_padded_wider_than_any_text_is_no_width():
    assert sprintf("%99999999999d|%s", 1, 2) == "%!(NOVERB)%!(EXTRA int=1, int=2)"
    assert sprintf("%*d", 100_000_000, 1) == "%!(BADWIDTH)1"
    assert sprintf("%.*f", 100_000_000, 1.5) == "%!(BADPREC)1.500000"
    assert sprintf("%.*f|%.d", -1, 1.5, 0) == "%!(BADPREC)1.500000|"
    assert sprintf("%[" + "9" * 5000 + "]d", 1) == "%!d(BADINDEX)"
    assert len(sprintf("%1000d", 1)) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "{{if .Prompt}}" * 2000 + "x" + "{{end}}" * 2000,
        "{{" + "(" * 3000 + "1" + ")" * 3000 + "}}",
        "{{" + "(" * 150 + "1" + ")" * 150 + "}}",
        "{{if 0}}" + "{{else if 0}}" * 2000 + "{{end}}",
        "{{if .Messages}}" * 190 + "{{end}}" * 190,
    ],
)
def test_deep_nesting_is_an_error_of_the_template(text):
    try:
        render(text)
    except TemplateError as error:
        assert "nested too deeply" in str(error)


def test_execution_leaves_the_messages_as_they_were():
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    render("{{ range .Messages }}{{ .Content }}{{ end }}", messages=messages)
    assert messages == [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]


def test_a_template_can_run_again():
    template = Template.parse("{{ .Prompt }}:{{ .Response }} END")
    values = Values(
        messages=[
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ]
    )
    assert template.execute(values) == template.execute(values) == "a:b ENDc:"


# Expected texts: output of Go 1.26's fmt for the same arguments.
@pytest.mark.parametrize(
    "layout, values, text",
    [
        (
            "%05s|%-5d|%+.2e|%x|% x|%#x",
            ["ab", 3, 12345.678, "hi", "hi", "hi"],
            "000ab|3    |+1.23e+04|6869|68 69|0x6869",
        ),
        ("%08.3f|%+05d|%q|%#U", [-3.14159, 7, ord("x"), 0x1F600], "-003.142|+0007|'x'|U+1F600 '😀'"),
        ("%[2]d %[1]d|%d %s|%*d", [1, 2, 3], "2 1|2 %!s(int=3)|%!(BADWIDTH)%!d(MISSING)"),
        ("%.2s|%.3q|%x|%#o|%#b|%8.3d|% d", ["héllo", "héllo", -255, 8, 5, -5, 5], 'hé|"hél"|-ff|010|0b101|    -005| 5'),
    ],
)
def test_printf(layout, values, text):
    assert sprintf(layout, *values) == text


@pytest.mark.parametrize(
    "value, text",
    [(1e5, "100000"), (1e6, "1e+06"), (123456789.0, "1.23456789e+08"), (1e-5, "1e-05"), (0.0001, "0.0001")],
)
def test_floats_print_as_in_go(value, text):
    assert sprint(value) == text

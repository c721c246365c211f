"""Schemas as clients send them: what Ollama accepts is accepted, the text matches what can be enforced, and the log
names the rest.
"""

import json
import time

import numpy as np
import pytest
from json_tokens import JsonTokenizer, reads
from jsonschema import Draft202012Validator

from vkbackend.engine.grammar import GrammarError, Grammars
from vkbackend.engine.pattern import without_look_around
from vkbackend.engine.schema import MAX_DIGITS


@pytest.fixture(scope="module")
def tokenizer():
    return JsonTokenizer()


@pytest.fixture(scope="module")
def grammars(tokenizer):
    return Grammars(tokenizer, tokenizer.vocab_size)


def write(grammars, tokenizer, schema, favourites, begin="", limit=400) -> str:
    """The text of a model that always prefers the first of its favourite characters and ends only when it must."""
    constraint = grammars.constraint(schema if isinstance(schema, str) else json.dumps(schema))
    text = b""
    for token in tokenizer.encode(begin):
        assert constraint.allowed()[token]
        constraint.accept(token)
        text += tokenizer.token_bytes(token)
    while len(text) < limit:
        allowed = constraint.allowed()
        wanted = [tokenizer.id(sign.encode()) for sign in favourites if allowed[tokenizer.id(sign.encode())]]
        if not wanted and allowed[1]:
            return text.decode()
        token = wanted[0] if wanted else int(np.flatnonzero(allowed)[0])
        text += tokenizer.token_bytes(token)
        constraint.accept(token)
    return text.decode()


def fits(grammars, tokenizer, schema, good=(), bad=()):
    for text in good:
        assert reads(grammars, tokenizer, schema, text), (schema, text)
    for text in bad:
        assert not reads(grammars, tokenizer, schema, text), (schema, text)


WORD = {"type": "object", "properties": {"w": {"const": "x"}}, "required": ["w"]}


@pytest.mark.parametrize(
    "name",
    [
        "Box<string>",
        "地址",
        "a b",
        "a/b",
        "a~b",
        "50%",
        "Map[str, List[int]]",
        "C#Class",
        "",
        "$ref",
        "properties",
        "é?x=1",
    ],
)
def test_a_definition_may_have_any_name(grammars, tokenizer, name):
    pointer = name.replace("~", "~0").replace("/", "~1")
    for written in (pointer, pointer.replace("%", "%25"), "".join(f"%{byte:02X}" for byte in pointer.encode())):
        for home in ("$defs", "definitions"):
            schema = {
                "type": "object",
                "properties": {"a": {"$ref": f"#/{home}/{written}"}},
                "required": ["a"],
                home: {name: WORD, "other": {}},
            }
            fits(grammars, tokenizer, schema, ['{"a":{"w":"x"}}'], ['{"a":1}', '{"a":{"w":"x","v":1}}'])


def test_references_lead_anywhere_in_the_document(grammars, tokenizer):
    tree = {"type": "object", "properties": {"c": {"type": "array", "items": {"$ref": "#"}}}}
    fits(grammars, tokenizer, tree, ['{"c":[{"c":[]},{}]}'], ['{"c":[1]}', '{"d":1}'])
    for reference in (
        "#/properties/a",
        "#/anyOf/0",
        "#word",
        "https://example.com/s.json#/properties/a",
        "s.json#word",
        "part.json",
    ):
        schema = {
            "$id": "https://example.com/s.json",
            "anyOf": [WORD, {}],
            "$defs": {"p": {"$id": "part.json", **WORD}},
            "properties": {"a": {"$anchor": "word", **WORD}, "b": {"$ref": reference}},
        }
        schema.pop("anyOf") if reference != "#/anyOf/0" else None
        fits(grammars, tokenizer, schema, ['{"b":{"w":"x"}}'])
        if reference != "#/anyOf/0":
            fits(grammars, tokenizer, schema, bad=['{"b":1}'])


def test_a_reference_to_another_document_is_left_out(grammars, tokenizer, caplog):
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "https://example.com/x.json#/a", "type": "boolean"}},
        "required": ["a"],
    }
    fits(grammars, tokenizer, schema, ['{"a":true}'], ['{"a":1}'])
    assert "example.com/x.json" in caplog.text


def test_keywords_next_to_a_reference_hold_too(grammars, tokenizer):
    fits(
        grammars,
        tokenizer,
        {"$ref": "#/$defs/t", "maxLength": 2, "$defs": {"t": {"type": "string"}}},
        ['"ab"'],
        ['"abc"', "1"],
    )
    both = {"$ref": "#/$defs/t", "properties": {"b": {"type": "integer"}}, "$defs": {"t": WORD}}
    fits(grammars, tokenizer, both, ['{"b":1,"w":"x"}'], ['{"b":"c","w":"x"}', '{"b":1}'])


@pytest.mark.parametrize("more", [
    {"$schema": "https://json-schema.org/draft-07/schema#"}, {"$schema": "nonsense"}, {"$schema": 5},
    {"$id": "::not a uri::"}, {"$id": "http://["}, {"$anchor": 5}, {"$vocabulary": None}, {"title": 5},
    {"x-order": 3}, {"x-guidance": {"whitespace_flexible": False}}, {"nullable": True}, {"required": None},
    {"additionalProperties": None}, {"enum": None}, {"items": None}, {"minimum": None}, {"pattern": None},
    {"format": None}, {"anyOf": None}, {"$ref": None}, {"$defs": []}, {"definitions": None},
    {"patternProperties": None}, {"type": ["object"]}, {"not": None},
])  # fmt: skip
def test_what_says_nothing_changes_nothing(grammars, tokenizer, more):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}} | more
    fits(grammars, tokenizer, schema, ['{"a":true}', "{}"], ['{"a":1}', '{"b":1}', "1"])


@pytest.mark.parametrize("more", [
    {"required": True}, {"required": "a"}, {"minProperties": -1}, {"minProperties": "1"}, {"anyOf": []},
    {"anyOf": {}}, {"enum": "abc"}, {"patternProperties": []}, {"prefixItems": {}}, {"format": 5}, {"multipleOf": 0},
    {"not": {}}, {"if": {}, "then": {}}, {"uniqueItems": True}, {"contains": {}}, {"propertyNames": {"maxLength": 3}},
    {"dependentRequired": {"a": ["b"]}}, {"$dynamicRef": "#x"}, {"$ref": 5},
])  # fmt: skip
def test_what_cannot_be_held_is_left_out_and_named(grammars, tokenizer, caplog, more):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}} | more
    fits(grammars, tokenizer, schema, ['{"a":true}', "{}"], ['{"a":1}', "1"])
    assert next(iter(more)) in caplog.text


def test_an_empty_list_of_properties_is_an_empty_object(grammars, tokenizer):
    schema = {"type": "object", "properties": {"meta": {"type": "object", "properties": []}}, "required": ["meta"]}
    fits(grammars, tokenizer, schema, ['{"meta":{}}'], ['{"meta":[]}', '{"meta":{"a":1}}'])


def test_schemas_that_are_true_or_false_and_constants_of_any_kind(grammars, tokenizer):
    fits(grammars, tokenizer, {"type": "object", "properties": {"a": True, "b": False}}, ['{"a":[1]}'], ['{"b":1}'])
    fits(
        grammars,
        tokenizer,
        {"enum": [1, "a", None, {"b": [1.5]}, True, 1e400]},
        ["1", '"a"', "null", '{"b":[1.5]}', "true"],
        ["2", "false"],
    )
    fits(grammars, tokenizer, {"const": None}, ["null"], ["1"])
    fits(
        grammars, tokenizer, {"type": "integer", "enum": ["1", "2"]}, ['"1"'], ["1", '"3"']
    )  # as in Ollama, which never looks at the type
    fits(grammars, tokenizer, {"type": "integer", "enum": ["1", 2]}, ["2"], ['"1"'])
    fits(grammars, tokenizer, {"type": ["string", "null"], "maxLength": 1}, ['"a"', "null"], ['"ab"', "1"])


def test_a_list_of_items_says_what_the_first_ones_are(grammars, tokenizer):
    schema = {"type": "array", "items": [{"type": "integer"}, {"type": "string"}], "additionalItems": False}
    fits(grammars, tokenizer, schema, ['[1,"a"]', "[1]"], ['["a"]', '[1,"a",2]'])


def test_whole_numbers_may_have_a_point(grammars, tokenizer):
    fits(grammars, tokenizer, {"type": "string", "minLength": 4.0, "maxLength": 5e0}, ['"abcd"'], ['"abc"', '"abcdef"'])
    fits(
        grammars,
        tokenizer,
        {"type": "array", "minItems": 1.0, "items": {"type": "integer", "maximum": 3.0}},
        ["[3]"],
        ["[]", "[4]"],
    )


@pytest.mark.parametrize("bounds", [
    '"minimum": 1e400', '"maximum": 1e400', '"minimum": -1e400', '"exclusiveMaximum": 1e999', '"maximum": 1e300',
    '"minimum": 1e30', '"minimum": -1e300', '"multipleOf": 1e400', '"multipleOf": 1e-300', '"minimum": 1e-320',
    '"minimum": ' + "9" * 5000, '"minimum": "1"', '"minimum": true', '"exclusiveMinimum": true',
    '"minimum": 5, "maximum": 3', '"exclusiveMinimum": 3, "maximum": 3',
])  # fmt: skip
@pytest.mark.parametrize("kind", ["integer", "number"])
def test_bounds_that_no_number_of_the_grammar_can_pass(grammars, tokenizer, bounds, kind):
    text = write(grammars, tokenizer, f'{{"type": "{kind}", {bounds}}}', "3")
    assert text[0] == "3" and float(text) > 0


def test_counts_beyond_all_bounds(grammars):
    for text in (
        '{"type": "array", "minItems": 1e30}',
        '{"type": "string", "minLength": 1e400}',
        '{"type": "string", "maxLength": 18446744073709551616}',
        '{"type": "array", "maxItems": 1e19, "minItems": 5}',
        '{"type": "object", "maxProperties": 1e30}',
    ):
        grammars.constraint(text).allowed()


@pytest.mark.parametrize("pattern, good, bad", [
    ("(?=a)b", '"b"', '"a"'), ("^(?!foo)[a-z]+$", '"bar"', '"B"'), (r"^\bfoo\b$", '"foo"', '"fo"'),
    ("^(a|b)\\1$", '"aa"', '"c"'), ("^(?<year>[0-9]{4})(?=$)", '"2024"', '"x2024"'), ("^(?<=x)?a$", '"a"', '"b"'),
    ("^(?>a|ab)c$", '"ac"', '"c"'), (r"^\cAb$", '"\\u0001b"', '"b"'), ("^{a}$", '"{a}"', '"a"'),
    ("^[^[]$", '"a"', '"["'), ("^(?=.*[0-9])(?=.*[a-z])[a-z0-9]{2}$", '"a1"', '"aa"'),
    ("^(?!a(?=b)c)(x|y)$", '"y"', '"z"'), ("^(?#note)a(?=b)*c$", '"ac"', '"bc"'),
])  # fmt: skip
def test_patterns_hold_as_far_as_they_can(grammars, tokenizer, caplog, pattern, good, bad):
    fits(grammars, tokenizer, {"type": "string", "pattern": pattern}, [good], [bad])
    assert "left out" in caplog.text
    fits(
        grammars,
        tokenizer,
        {"type": "object", "patternProperties": {pattern: {"type": "null"}}, "additionalProperties": False},
        ["{}"],
    )


def test_what_is_no_pattern_is_left_out(grammars, tokenizer, caplog):
    for pattern in ("[", "(", "*", "a{2,1}", "$a^", "(?<=", 5, "\ud800["):
        fits(grammars, tokenizer, {"type": "string", "pattern": pattern}, ['"q"'], ["1"])
    assert "pattern" in caplog.text


def test_a_look_ahead_of_one_branch_does_not_bind_the_others():
    assert without_look_around("^(?=a)[ab]|c").ahead == []
    assert without_look_around("^(?=a|b)(c|d)").ahead == ["^(?:a|b)"]
    assert without_look_around("^(?=a)b").text == "^b"


def test_schemas_that_contradict_themselves_are_held_in_part(grammars, tokenizer, caplog):
    for schema in (
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"anyOf": [False]},
        {"type": "object", "properties": {"a": {}}, "minProperties": 2},
        {"type": "object", "properties": {}, "required": ["a"], "additionalProperties": False},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "string", "minLength": 3, "maxLength": 1},
    ):
        caplog.clear()
        assert grammars.constraint(json.dumps(schema)).allowed().any() and "left out" in caplog.text, schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "banana"},
        {"type": ["string", "any"]},
        {"type": 5},
        {"$ref": "#/nowhere"},
        {"$ref": "#nowhere"},
        {"$ref": "#"},
        {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": 5}},
    ],
)
def test_what_ollama_refuses_is_refused(grammars, schema):
    with pytest.raises(GrammarError, match="^invalid JSON schema in format$"):
        grammars.constraint(json.dumps(schema))


@pytest.mark.parametrize("schema, begin", [
    ({"type": "integer"}, ""), ({"type": "number"}, ""), ({"type": "number"}, "-1."), ({"type": "number"}, "1e"),
    ({}, ""), ({"type": "array"}, "["), ({"type": "object"}, '{"a":'),
    ({"type": "array", "items": {"type": "integer"}}, "["), ({"anyOf": [{"type": "number"}, {"type": "string"}]}, ""),
    ({"type": "integer", "minimum": 0}, ""), ({"type": "number", "minimum": 0.5}, "5."),
    ({"type": "number", "maximum": 1e300}, "5."),
    ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, ""), ({"type": "integer", "multipleOf": 7}, ""),
    ({"title": "any"}, "4."), ({"type": "number", "exclusiveMinimum": 0}, "0."),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, ""),
])  # fmt: skip
def test_numbers_of_a_schema_end(grammars, tokenizer, schema, begin):
    for digit in "0123456789":
        text = write(grammars, tokenizer, schema, digit if digit != "0" else "01", begin)
        if text[0] not in "[{":
            value = json.loads(text)
            assert all(len(run) <= MAX_DIGITS for run in text.lower().replace("-", "").replace("e", ".").split(".")), (
                text
            )
            if "e" not in text:
                Draft202012Validator(schema).validate(value)
        elif digit != "0":
            assert text.startswith(begin + digit * MAX_DIGITS) and not text.startswith(begin + digit * (MAX_DIGITS + 1))


def test_numbers_that_a_schema_asks_for_are_as_long_as_they_must_be(grammars, tokenizer):
    least = 10**17 + 3
    assert int(write(grammars, tokenizer, {"type": "integer", "minimum": least}, "1")) >= least
    assert float(write(grammars, tokenizer, {"const": 1e30}, "")) == 1e30
    assert write(grammars, tokenizer, {"const": "1" * 40}, "") == f'"{"1" * 40}"'
    assert (
        write(grammars, tokenizer, {"type": "number", "exclusiveMinimum": 5, "maximum": 6}, "0", "5.")
        == "5." + "0" * MAX_DIGITS + "1"
    )


def test_text_and_plain_json_have_digits_without_bound(grammars, tokenizer):
    assert "8" * 30 in write(grammars, tokenizer, {"type": "string"}, "8", '"')
    assert "8" * 30 in write(grammars, tokenizer, {"type": "string"}, "8", '"\\"1')
    assert "8" * 30 in write(grammars, tokenizer, '"json"', "8", '{"a":')


def test_tokens_of_several_digits_count_each(grammars):
    wide = JsonTokenizer()
    constraint = grammars.constraint('{"type": "integer"}')
    twelve = wide.id(b"12")
    for _ in range(MAX_DIGITS // 2):
        assert constraint.allowed()[twelve]
        constraint.accept(twelve)
    assert not constraint.allowed()[twelve] and not constraint.allowed()[wide.id(b"1")] and constraint.allowed()[1]


def test_a_schema_of_many_patterns_and_references_is_read_at_once(grammars):
    fields = {f"f{number}": {"$ref": f"#/$defs/d{number}"} for number in range(1500)}
    definitions = {f"d{number}": {"type": "string", "pattern": f"^(?=a)[a-z]{{{number}}}$"} for number in range(1500)}
    begin = time.perf_counter()
    grammars.constraint(json.dumps({"type": "object", "properties": fields, "$defs": definitions}))
    assert time.perf_counter() - begin < 5

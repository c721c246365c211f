"""Schemas that would take minutes to compile, or more stack than a process has, are rejected within seconds."""

import json
import time

import pytest
from json_tokens import JsonTokenizer

from vkbackend.engine.grammar import GrammarError, Grammars


@pytest.fixture(scope="module")
def grammars():
    tokenizer = JsonTokenizer()
    return Grammars(tokenizer, tokenizer.vocab_size)


def chain(number: int) -> dict:
    """A schema whose references lead from each definition to the next."""
    definitions = {
        f"d{at}": {"type": "object", "properties": {"n": {"$ref": f"#/$defs/d{at + 1}"}}} for at in range(number)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{number}": {"type": "string"}}}


def fields(number: int, field) -> dict:
    return {"type": "object", "properties": {f"f{at}": field(at) for at in range(number)}}


LARGE = {
    "optional fields": fields(100_000, lambda at: {"type": "string"}),
    "multiples": fields(1_200, lambda at: {"type": "integer", "multipleOf": at + 7}),
    "patterns": fields(50_000, lambda at: {"type": "string", "pattern": f"^[a-z]{{1,{at % 50 + 1}}}x{at}$"}),
    "alternatives": {"anyOf": [{"properties": {"f": {"const": at}}} for at in range(60_000)]},
    "patterns of names": {"type": "object", "patternProperties": {f"^k{at}[a-z]+$": {} for at in range(400)}},
    "references": chain(50_000),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_schema_that_is_too_large_is_refused_within_seconds(grammars, name):
    text = json.dumps(LARGE[name])
    assert len(text) <= 4 << 20
    begin = time.process_time()
    with pytest.raises(GrammarError, match="^invalid JSON schema in format$"):
        grammars.constraint(text)
    assert time.process_time() - begin < 15


@pytest.mark.parametrize(
    "schema",
    [
        fields(3_000, lambda at: {"type": "string"}),
        fields(3_000, lambda at: {"type": "string", "pattern": f"^([a-z]{{1,500}}x){{1,{at + 500}}}$"}),
        fields(250, lambda at: {"type": "integer", "multipleOf": at + 7}),
        {"type": "object", "patternProperties": {f"^k{at}[a-z]+$": {} for at in range(100)}},
        {"enum": [f"value {at}" for at in range(50_000)]},
        chain(1_500),
    ],
    ids=["optional fields", "slow patterns", "multiples", "patterns of names", "values", "references"],
)
def test_a_large_schema_is_compiled_within_seconds(grammars, schema):
    begin = time.process_time()
    assert grammars.constraint(json.dumps(schema)).allowed().any()
    assert time.process_time() - begin < 15

"""Structured output: accepted formats, texts that match them, and log-probabilities of the raw logits."""

import asyncio
import json
import time

import numpy as np
import pytest
from engine_world import GREEDY, WAIT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from json_tokens import WORDS, JsonTokenizer, reads
from jsonschema import Draft202012Validator
from shared_data import shared

from vkbackend.engine.grammar import GrammarError, Grammars
from vkbackend.engine.request import GenerationRequest, Piece, SamplingOptions
from vkbackend.errors import RequestError
from vkbackend.server.errors import ApiError
from vkbackend.server.generation.events import engine_events
from vkbackend.server.generation.plan import check_format

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
}


@pytest.fixture(scope="module")
def tokenizer():
    return JsonTokenizer()


@pytest.fixture(scope="module")
def grammars(tokenizer):
    return Grammars(tokenizer, tokenizer.vocab_size + 3)


def test_formats_are_taken_or_refused_as_recorded(grammars):
    vectors = json.loads((shared("vectors") / "format_field.json").read_text())
    assert len(vectors) == 16
    for vector in vectors:
        try:
            grammars.constraint(check_format(vector["format"]))
            said = None
        except ApiError as error:
            assert error.status == 500
            said = error.message
        except GrammarError as error:
            said = str(error)
        assert said == vector.get("error"), vector
    assert [check_format(nothing) for nothing in (None, "", "null", '""')] == [""] * 4


def test_what_no_schema_can_be(grammars, tokenizer, caplog):
    for text in (
        '{"type": "banana"}',
        '{"type": "object"',
        "[" * 100_000,
        "{}{}",
        '{"$ref": "#"}',
        '{"allOf": [{"$ref": "#"}]}',
    ):
        with pytest.raises(GrammarError):
            grammars.constraint(text)
    assert "banana" in caplog.text
    endless = JsonTokenizer()
    endless.eos_ids = set()
    with pytest.raises(RequestError, match="has no end token"):
        Grammars(endless, 300).constraint("{}")


def test_what_is_not_understood_is_logged_and_the_rest_holds(grammars, caplog):
    constraint = grammars.constraint(
        '{"type": "array", "items": {"type": "integer", "not": {"const": 3}}, "uniqueItems": true}'
    )
    assert "not" in caplog.text and "uniqueItems" in caplog.text
    assert {token for token in np.flatnonzero(constraint.allowed())} == {2 + ord("[")}


def test_objects_that_list_their_properties_have_no_others(grammars, tokenizer):
    a, b = ({"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]} for name in "ab")
    for schema, text, fits in (
        (a, '{"a": 1}', True),
        (a, '{"a": 1, "c": 2}', False),
        ({**a, "additionalProperties": True}, '{"a": 1, "c": 2}', True),
        ({"type": "array", "items": a}, '[{"a": 1, "c": 2}]', False),
        ({"anyOf": [a, b]}, '{"b": 1}', True),
        ({"anyOf": [a, b]}, '{"a": 1, "b": 1}', False),
        ({"allOf": [a, b]}, '{"a": 1, "b": 1}', True),
        (
            {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {"a": a, "b": b}},
            '{"a": 1, "b": 1}',
            True,
        ),
        ({"$ref": "#/$defs/a", "$defs": {"a": a}}, '{"a": 1, "c": 2}', False),
        ({"type": "object"}, '{"anything": [1, {"x": null}]}', True),
    ):
        assert reads(grammars, tokenizer, schema, text) == fits, (schema, text)


def texts(names):
    return some.one_of(
        some.just({"type": "string", "maxLength": 6}),
        some.just({"type": "integer"}),
        some.just({"type": "boolean"}),
        some.just({"type": "null"}),
        some.just({"enum": names}),
        some.just({"type": "string", "pattern": "^[a-c]{1,4}$"}),
    )


SCHEMAS = some.recursive(
    texts(["red", 7, None]),
    lambda inner: some.one_of(
        some.builds(
            lambda items, least: {"type": "array", "items": items, "minItems": least, "maxItems": least + 2},
            inner,
            some.integers(0, 2),
        ),
        some.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
        some.builds(
            lambda properties: {
                "type": "object",
                "properties": properties,
                "required": sorted(properties)[:2],
                "additionalProperties": False,
            },
            some.dictionaries(some.sampled_from(["a", "b", "long name", "é"]), inner, max_size=3),
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(SCHEMAS, some.integers(0, 2**32 - 1))
def test_whatever_is_drawn_fits_its_schema(grammars, tokenizer, schema, seed):
    draws, constraint, drawn = np.random.default_rng(seed), grammars.constraint(json.dumps(schema)), []
    while True:
        allowed = np.flatnonzero(constraint.allowed())
        assert len(allowed) and allowed.max() < tokenizer.vocab_size
        closing = [token for token in allowed if tokenizer.token_bytes(token)[-1:] in b'"}]']
        # Drawn at random, texts and numbers would go on for long: every other token is one that closes something.
        token = int(draws.choice(closing if closing and len(drawn) % 2 else allowed))
        if token in tokenizer.eos_ids:
            break
        drawn.append(token)
        constraint.accept(token)
        if len(drawn) > 400:
            return  # a long number: no end, but no wrong end either
    Draft202012Validator(schema).validate(json.loads(tokenizer.decode(drawn)))


def test_blanks_are_few(grammars, tokenizer):
    constraint = grammars.constraint(json.dumps(SCHEMA))
    for byte in b"{\n" + 20 * b" ":
        constraint.accept(tokenizer.id(bytes([byte])))
    assert {tokenizer.token_bytes(token) for token in np.flatnonzero(constraint.allowed())} == {b'"'}


def json_world(world):
    return world([["12"]], tokenizer=JsonTokenizer())


def test_an_engine_keeps_to_the_format_with_the_raw_log_probabilities(world):
    here = json_world(world)
    words = [here.tokenizer.id(word) for word in WORDS]
    favourites = iter([])
    here.runner.next_token = lambda tokens: next(favourites, words[-1])  # what it would rather say
    *pieces, finished = here.engine.generate(
        here.request(format=json.dumps(SCHEMA), logprobs=True, top_logprobs=3, num_predict=300)
    )
    text = "".join(piece.text for piece in pieces)
    Draft202012Validator(SCHEMA).validate(json.loads(text))
    assert finished.reason == "stop"
    logprobs = [logprob for piece in pieces for logprob in piece.logprobs]
    assert b"".join(logprob.bytes for logprob in logprobs) == text.encode() and len(logprobs) == finished.tokens - 1
    row = here.runner.row(words[-1]).astype(np.float64)
    raw = row - row.max() - np.log(np.exp(row - row.max()).sum())
    for logprob in logprobs:
        assert logprob.logprob == pytest.approx(raw[logprob.token_id], abs=1e-5)
        assert logprob.top[0].token_id == words[-1] and logprob.top[0].logprob == pytest.approx(
            raw[words[-1]], abs=1e-5
        )


def test_formats_of_several_requests_do_not_mix(world):
    here = json_world(world)
    asked = [{"const": number} for number in range(8)] + [
        {"type": "object", "properties": {"n": {"const": 1}}, "required": ["n"]}
    ] * 4
    options = SamplingOptions(temperature=1.0, seed=5, repeat_penalty=1.0)
    listeners = [
        here.start(
            f"prompt {at}", format='{"x": 1}' if schema is None else json.dumps(schema), num_predict=40, options=options
        )
        for at, schema in enumerate(asked)
    ]
    for listener, schema in zip(listeners, asked):
        assert listener.wait().reason == "stop"
        Draft202012Validator(schema).validate(json.loads(listener.text))


def test_a_format_and_a_constraint_are_too_much(world, grammars):
    here = json_world(world)
    with pytest.raises(RequestError, match="a format and a constraint"):
        here.run(format="{}", constraint=grammars.constraint("{}"))
    with pytest.raises(GrammarError):
        here.run(format='{"$ref": "#/nowhere"}')


def test_a_large_schema_does_not_hold_up_the_event_loop(world):
    here = json_world(world)
    fields = {
        f"field_{number}": {"type": "object", "properties": {"x": {"type": "string", "pattern": "^[a-z]{1,20}$"}}}
        for number in range(1500)
    }
    schema = json.dumps({"type": "object", "properties": fields, "required": [], "additionalProperties": False})
    assert len(schema) > 100_000
    here.engine._grammars.constraint("{}")  # the vocabulary is read once

    async def run():
        gaps, done = [], asyncio.Event()

        async def tick():
            while not done.is_set():
                before = time.perf_counter()
                await asyncio.sleep(0.001)
                gaps.append(time.perf_counter() - before)

        ticking, begin = asyncio.create_task(tick()), time.perf_counter()
        request = GenerationRequest(here.tokenizer.encode("hello"), GREEDY, num_predict=3, format=schema)
        pieces = [event async for event in engine_events(here.engine, request) if isinstance(event, Piece)]
        took = time.perf_counter() - begin
        done.set()
        await ticking
        return pieces, max(gaps), took

    pieces, longest, took = asyncio.run(asyncio.wait_for(run(), WAIT))
    assert pieces[0].text[0] == "{"
    assert longest < max(0.1, took / 3), f"{longest:.3f} s of {took:.3f} s without a turn of the loop"

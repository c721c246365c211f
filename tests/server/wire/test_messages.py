"""Reading of requests and writing of answers against recordings; malformed and large bodies."""

import json
import random
import re
import time

import pytest
from first_value import parse_first
from recorded import check, load, outcome, recorded_outcome

from vkbackend.server.go import binding, encode, kinds
from vkbackend.server.go.decode import INVALID_PIECE, PIECE, JSONSyntaxError
from vkbackend.server.go.text import quote
from vkbackend.server.wire import conversation, native

ERRORS = (kinds.BindError, JSONSyntaxError)
KINDS = {
    "Tool": binding.Struct(conversation.Tool),
    "Message": binding.Alias(conversation.Message),
    "PropertyType": conversation.PROPERTY_TYPE,
}


def test_request_bodies():
    check(
        load("api_requests_responses", "bind"),
        lambda vector: (
            outcome(
                lambda: encode.dumps(binding.bind(getattr(native, vector["type"]), vector["body"].encode())), *ERRORS
            ),
            recorded_outcome(vector, "json"),
        ),
    )


def test_tools_and_messages():
    def got(vector):
        state, kind = kinds.State(), KINDS[vector["type"]]
        value = kind.decode(parse_first(vector["input_text"].encode()), "", kind.zero(), state)
        if state.first_error:
            raise state.first_error
        return kind.encode(value)

    check(
        load("api_tools_messages", "roundtrip"),
        lambda vector: (outcome(lambda: got(vector), *ERRORS), recorded_outcome(vector, "json")),
    )


def test_answers():
    """A recorded answer read into its dataclass is written again as it was."""

    def got(vector):
        answer = binding.bind(getattr(native, vector["type"]), vector["json"].encode())
        if isinstance(answer, native.EmbedResponse):
            answer.embeddings = [[encode.Float32(number) for number in row] for row in answer.embeddings]
        return encode.dumps(answer)

    answers = [
        vector for vector in load("api_requests_responses", "marshal") if vector["type"] != "StatusError"
    ]  # a client's error, never written
    check(answers, lambda vector: (got(vector), vector["json"]))


@pytest.mark.parametrize(
    "body, message",
    [
        (b"", "EOF"),
        (b" \n", "EOF"),
        (b"{", "unexpected EOF"),
        (b'{"a":"\\u12', "unexpected EOF"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"tru!", "invalid character '!' in literal true (expecting 'e')"),
        (b"-x", "invalid character 'x' in numeric literal"),
        (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
        (b"1ex", "invalid character 'x' in exponent of numeric literal"),
        (b'"\\q"', "invalid character 'q' in string escape code"),
        (b"NaN", "invalid character 'N' looking for beginning of value"),
        (b"'a'", "invalid character '\\'' looking for beginning of value"),
        (b"[" * 5000, "exceeded max depth"),
    ],
)
def test_syntax_errors_have_the_words_of_go(body, message):
    with pytest.raises(JSONSyntaxError) as caught:
        parse_first(body)
    assert str(caught.value) == message


def test_valid_json_is_read_like_a_known_reader_reads_it():
    document = {
        "text": 'a"\\/\b\f\n\r\t é 😀 \u2028',
        "numbers": [0.0, -1.0, 1.5, 1e30, 12345678901234567890.0],
        "deep": [[[{"x": [None, True, False, {}]}]]],
        "": [],
    }
    for ensure_ascii in (True, False):
        assert (
            kinds.to_plain(parse_first(json.dumps(document, ensure_ascii=ensure_ascii, indent=1).encode())) == document
        )


def test_bytes_that_are_no_utf8_become_replacement_characters_one_each():
    assert parse_first(b'"a\xff\xfe\xe2\x82b"') == "a\ufffd\ufffd\ufffd\ufffdb"


@pytest.mark.parametrize(
    "body, named",
    [
        (b"\xff", "\u00ff"),
        (b"\x80", "\\u0080"),
        (b"\xe2\x82", "\u00e2"),
        (b"\xef\xbb\xbf{}", "\u00ef"),
        ("\u20ac".encode(), "\u00e2"),
        (b"\x00", "\\x00"),
        (b"\x7f", "\\x7f"),
    ],
)
def test_a_syntax_error_names_the_byte_that_is_there(body, named):
    with pytest.raises(JSONSyntaxError, match="^" + re.escape(f"invalid character '{named}' looking for beginning")):
        parse_first(body)


def test_a_raw_value_keeps_its_bytes_and_a_text_does_not():
    ask = binding.bind(native.ChatRequest, b'{"model":"\xffm","format":["\xff", "\xe2\x82"],"think":null}')
    assert (ask.model, ask.format) == ("\ufffdm", '["\udcff", "\udce2\udc82"]')
    assert quote(ask.format) == r'"[\"\xff\", \"\xe2\x82\"]"'


def test_many_invalid_bytes_are_replaced_one_by_one():
    assert parse_first(b'"' + b"\xffa" * INVALID_PIECE + b'"') == "\ufffda" * INVALID_PIECE


@pytest.mark.parametrize(
    "raw, written",
    [
        (' {"a" :\n[1,  "b \\" c", "<&>"]\t}', r'{"a":[1,"b \" c","\u003c\u0026\u003e"]}'),
        ('"\u2028 \\\\" ', r'"\u2028 \\"'),
        ("[ 1.50e+3 , 1E5 ]", "[1.50e+3,1E5]"),
    ],
)
def test_raw_json_is_compacted_and_escaped_as_go_does(raw, written):
    assert encode.dumps(encode.RawJSON(raw)) == encode.compact(raw) == written


def test_compacting_takes_time_in_proportion_to_its_text():
    started = time.monotonic()
    assert encode.compact('["' + '", "'.join(["a"] * 300_000) + '"]').count("a") == 300_000
    assert time.monotonic() - started < 5


def test_a_wrong_type_is_reported_first_come_and_the_rest_is_still_read():
    with pytest.raises(kinds.BindError) as caught:
        binding.bind(native.ShowRequest, b'{"verbose":"yes","model":5}')
    assert str(caught.value) == "json: cannot unmarshal string into Go struct field ShowRequest.verbose of type bool"


def test_a_doubled_key_counts_last_and_maps_are_merged():
    ask = binding.bind(native.GenerateRequest, b'{"model":"a","MODEL":"b","options":{"x":1},"options":{"y":2}}')
    assert (ask.model, ask.options) == ("b", {"x": 1.0, "y": 2.0})


WHOLE = (
    b'{"model":"m","messages":[{"role":"user","content":"x","images":["aGk="],'
    b'"tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]}],'
    b'"tools":[{"function":{"name":"f","parameters":{"properties":{"a":{"type":["string",null],"anyOf":[{}],'
    b'"enum":[1]}}}}}],"keep_alive":"5m",'
    b'"think":"low","options":{"x":[1,2e3]},"format":{"a":1},"stream":null,"top_logprobs":3}'
)


def test_damaged_bodies_are_bound_or_refused_and_nothing_else():
    """Seeded damage: bytes replaced, removed, values put in. What is bound can be written again."""
    generator, bound = random.Random(1), 0
    for _ in range(3000):
        body = bytearray(WHOLE)
        for _ in range(generator.randint(1, 4)):
            place, choice = generator.randrange(len(body)), generator.random()
            if choice < 0.4:
                body[place] = generator.choice(b'{}[]",:0189eE.-+truefalsn\\u \xff')
            elif choice < 0.7:
                del body[place : place + generator.randint(1, 6)]
            else:
                body[place:place] = generator.choice([b"null", b"[]", b"{}", b'"x"', b"1", b"true", b"1e999"])
        try:
            encode.dumps(binding.bind(native.ChatRequest, bytes(body))).encode()
            bound += 1
        except ERRORS:
            pass
    assert 100 < bound < 2900  # both ends were met


@pytest.mark.parametrize("length", [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_texts_and_spaces_are_read_in_pieces(length):
    """A piece that ends where the text ends must not end it early."""
    text = "\u00fc" * length
    spaces = " " * length
    body = f'{spaces}["{text}",{spaces}"{text}\\n{text}"{spaces}]'
    assert parse_first(body.encode()) == [text, f"{text}\n{text}"]
    with pytest.raises(JSONSyntaxError, match="^unexpected EOF$"):
        parse_first(f'"{text}'.encode())

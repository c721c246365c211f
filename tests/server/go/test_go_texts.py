"""Small texts against recordings: names, sizes, times, durations, quantization levels, JSON, fmt."""

import base64
from datetime import timedelta, timezone

import pytest
from first_value import parse_first
from recorded import check, load, outcome, recorded_outcome

from vkbackend.server.go import durations, encode, kinds
from vkbackend.server.go import text as go_text
from vkbackend.server.go.folding import fold
from vkbackend.server.go.human import human_bytes, human_bytes_binary, human_duration, human_number, human_time
from vkbackend.server.library import quantization
from vkbackend.server.library.names import ModelName, from_file_path, parse_bare, parse_name
from vkbackend.server.prompts.gotemplate import formatting as template_formatting


def _text(value):
    """A recorded text; {"b64": ...} is one that is not UTF-8."""
    return base64.b64decode(value["b64"]).decode("utf-8", "surrogateescape") if isinstance(value, dict) else value


def _parts(name):
    return {"host": name.host, "namespace": name.namespace, "model": name.model, "tag": name.tag}


def test_names_are_parsed():
    def both(vector):
        text = vector["input"] if "input" in vector else _text({"b64": vector["input_b64"]})
        bare, full = parse_bare(text), parse_name(text)
        got = [_parts(bare), _parts(full), full.is_valid, bare.is_valid, str(bare), str(full), full.shortest]
        wanted = [
            {key: _text(part) for key, part in vector["bare"].items()},
            {key: _text(part) for key, part in vector["full"].items()},
            vector["is_valid"],
            vector["bare_is_valid"],
            _text(vector["bare_string"]),
            _text(vector["string"]),
            _text(vector["display_shortest"]),
        ]
        return got + [str(full.file_path) if full.is_valid else None], wanted + [vector.get("filepath")]

    check(load("model_names", "parse"), both)


def test_names_from_paths_and_folding():
    check(
        load("model_names", "from_filepath"),
        lambda vector: (_parts(from_file_path(vector["input"]) or ModelName()), vector["full"]),
    )
    check(
        load("model_names", "equal_fold"),
        lambda vector: (parse_bare(vector["a"]).folded == parse_bare(vector["b"]).folded, vector["output"]),
    )


def test_an_invalid_name_never_becomes_a_path():
    with pytest.raises(ValueError):
        _ = parse_name("../../etc/passwd").file_path


@pytest.mark.parametrize(
    "kind, function",
    [("human_bytes", human_bytes), ("human_bytes2", human_bytes_binary), ("human_number", human_number)],
)
def test_human_numbers(kind, function):
    check(load("format_numbers", kind), lambda vector: (function(vector["input"]), vector["output"]))


def test_human_times():
    check(
        load("format_time", "human_duration"), lambda vector: (human_duration(vector["nanoseconds"]), vector["output"])
    )
    a_moment = 1_000_000  # recorded ages were a moment old when they were formatted
    check(
        load("format_time", "human_time"),
        lambda vector: (human_time(vector["seconds_ago"] * durations.SECOND + a_moment), vector["output"]),
    )
    assert human_time(None) == "Never"


def test_quantization_names():
    check(
        load("ggml_types", "file_type_name"),
        lambda vector: (quantization.file_type_name(vector["general_file_type"]), vector["output"]),
    )
    check(
        load("ggml_types", "tensor_type"),
        lambda vector: (quantization.tensor_type_name(vector["id"]), vector["name_string"]),
    )
    check(
        load("ggml_types", "parse_file_type"),
        lambda vector: (
            outcome(lambda: quantization.parse_file_type(vector["input"]), ValueError),
            recorded_outcome(vector),
        ),
    )


FILE_TYPES = (
    "F32 F16 Q4_0 Q4_1 MXFP4 - - Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K "
    "- - Q2_K_S - - - - - - - - - - BF16 - - - - - - - - -"
).split()
TENSOR_TYPES = (
    "F32 F16 Q4_0 Q4_1 MXFP4 - Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K - - - - - - - - - - - - F64 "
    "- BF16 - - - - - - - - MXFP4 - -"
).split()


def test_every_number_of_a_type_has_ollamas_name():
    """A dash stands for a type that Ollama calls unknown."""
    for names_, function in ((FILE_TYPES, quantization.file_type_name), (TENSOR_TYPES, quantization.tensor_type_name)):
        assert [function(number) for number in range(len(names_))] == [name.replace("-", "unknown") for name in names_]
        assert function(1024) == function(-1) == "unknown"


HOUR, DAY = 3600 * durations.SECOND, 24 * 3600 * durations.SECOND


@pytest.mark.parametrize(
    "nanoseconds, words",
    [
        (0, "Less than a second"),
        (durations.SECOND - 1, "Less than a second"),
        (HOUR - 1, "59 minutes"),
        (HOUR, "About an hour"),
        (HOUR * 3 // 2 - 1000, "About an hour"),
        (HOUR * 3 // 2, "2 hours"),
        (HOUR * 95 // 2 - 1000, "47 hours"),
        (HOUR * 95 // 2, "2 days"),
        (14 * DAY - HOUR // 2, "2 weeks"),
        (14 * DAY - HOUR, "13 days"),
        (60 * DAY - HOUR, "8 weeks"),
        (60 * DAY, "2 months"),
        (730 * DAY - HOUR, "24 months"),
        (730 * DAY - HOUR // 2, "1 years"),
        (730 * DAY, "2 years"),
        (63 * 365 * DAY - 1, "63 years"),
    ],
)  # Go's float64 hours: the last nanosecond rounds away
def test_ages_round_as_gos(nanoseconds, words):
    assert human_duration(nanoseconds) == words
    assert human_time(nanoseconds) == f"{words} ago"
    if 0 < nanoseconds < 21 * 365 * DAY:
        assert human_time(-nanoseconds) == f"{words} from now"


@pytest.mark.parametrize("years, words", [(20, "20 years from now"), (21, "Forever"), (292, "Forever")])
def test_what_is_far_in_the_future_is_for_ever(years, words):
    assert human_time(-(years * 365 * DAY + HOUR)) == words


@pytest.mark.parametrize(
    "function, count, text",
    [
        (human_bytes, 9_999_999_999_999_999, "10000 TB"),
        (human_bytes, 9_999, "10.0 KB"),
        (human_bytes, 9_949, "9.9 KB"),
        (human_bytes, 10_999, "10 KB"),
        (human_bytes, 2_000, "2 KB"),
        (human_bytes, -5, "-5 B"),
        (human_number, 999_999, "1000K"),
        (human_number, 10**16 + 1, "10000000B"),
        (human_number, 1_234_567, "1.23M"),
        (human_bytes_binary, 1 << 40, "1024.0 GiB"),
    ],
)
def test_sizes_divide_as_floats(function, count, text):
    assert function(count) == text


@pytest.mark.parametrize(
    "one, other, are_equal",
    [
        ("m", "M", True),
        ("registry.ollama.ai/library/m", "REGISTRY.OLLAMA.AI/Library/M", True),
        ("\u212a", "k", True),
        ("\u017f", "S", True),
        ("stra\u00dfe", "STRA\u1e9eE", True),
        ("stra\u00dfe", "strasse", False),
        ("\u0130", "i", False),
        ("\u0131", "I", False),
        ("\u03c3", "\u03c2", True),
        ("\u1f88", "\u1f80", True),
        ("\u00e9", "\u00c9", True),
        ("m-1", "m_1", False),
    ],
)
def test_names_fold_by_unicodes_simple_rules(one, other, are_equal):
    assert (parse_name(one).folded == parse_name(other).folded) is are_equal
    assert (fold(one) == fold(other)) is are_equal


def test_the_default_host_and_namespace_are_left_out_however_they_are_written():
    assert parse_name("regi\u017ftry.ollama.ai/LIBRARY/m").shortest == "m:latest"


@pytest.mark.parametrize(
    "text, said",
    [
        ("∞", r'invalid duration "\xe2\x88\x9e"'),
        ("5µ", r'unknown unit "\xc2\xb5" in duration "5\xc2\xb5"'),
        ("5é", r'unknown unit "\xc3\xa9" in duration "5\xc3\xa9"'),
        ("\U0001f600\ufffd", r'invalid duration "\xf0\x9f\x98\x80\xef\xbf\xbd"'),
        ('a"\\\n\x7f', 'invalid duration "a\\"\\\\\\x0a\x7f"'),
        ("5", 'missing unit in duration "5"'),
    ],
)
def test_durations_are_quoted_as_the_time_package_does(text, said):
    with pytest.raises(ValueError) as error:
        durations.parse(text)
    assert str(error.value) == f"time: {said}"


def test_durations_of_thousands_of_digits():
    with pytest.raises(ValueError, match="time: invalid duration"):
        durations.parse("9" * 5000 + "h")
    assert durations.parse("0." + "3" * 5000 + "s") == 333_333_333
    assert durations.parse("0" * 5000 + "1s") == durations.SECOND


def test_durations():
    check(
        load("api_duration_think", "duration_marshal"),
        lambda vector: (
            [durations.text(vector["nanoseconds"]), durations.to_json(vector["nanoseconds"])],
            [vector["string"], vector["json"]],
        ),
    )
    check(
        load("api_duration_think", "duration_json"),
        lambda vector: (
            outcome(
                lambda: durations.from_json(kinds.to_plain(parse_first(vector["input_text"].encode()))), ValueError
            ),
            recorded_outcome(vector, "nanoseconds"),
        ),
    )


def test_numbers_and_times_in_json():
    check(
        load("api_requests_responses", "float64_json"),
        lambda vector: (encode.dumps(float(vector["input"])), vector["json"]),
    )
    check(
        load("api_requests_responses", "float32_json"),
        lambda vector: (encode.dumps(encode.Float32(vector["input"])), vector["json"]),
    )
    dated = [vector for vector in load("api_requests_responses", "time_json") if vector["unix"] > 0]
    check(
        dated,
        lambda vector: (
            encode.dumps(
                encode.rfc3339_nano(
                    vector["unix"] * durations.SECOND + vector["nanosecond"],
                    timezone(timedelta(seconds=vector["utc_offset_seconds"])),
                )
            ),
            vector["json"],
        ),
    )


def test_text_in_json_is_escaped_as_go_does():
    assert encode.dumps({"b": "<a & b>\u2028\x7f\x00\n", "a": [1.0, True, None, b"hi"]}) == (
        '{"a":[1,true,null,"aGk="],"b":"\\u003ca \\u0026 b\\u003e\\u2028\x7f\\u0000\\n"}'
    )
    assert encode.dumps("\ud800 \udcff") == '"\\ufffd \\ufffd"'
    assert encode.dumps(encode.RawJSON('{ "a b" : [1.0, "\\" <"] }')) == '{"a b":[1.0,"\\" \\u003c"]}'
    with pytest.raises(ValueError):
        encode.dumps(float("nan"))


def test_values_as_fmt_prints_them():
    assert [go_text.value(item) for item in (64.0, 0.2, 131072.0, 1e6, 1.5e-5, 0.0001, True, "x", None)] == [
        "64",
        "0.2",
        "131072",
        "1e+06",
        "1.5e-05",
        "0.0001",
        "true",
        "x",
        "<nil>",
    ]
    assert go_text.quote('a"\\\n\x01\u00a0é') == '"a\\"\\\\\\n\\x01\\u00a0é"'


@pytest.mark.parametrize(
    "character, is_printed",
    [
        ("\U0001fa77", True),
        ("\U0001faf8", True),
        ("\U000323af", True),
        ("\U0002b739", True),
        ("\U00013440", True),
        ("\U0001343f", False),
        ("\U0001fa6f", False),
        ("\ue000", False),
    ],
)
def test_quoting_prints_what_go_prints(character, is_printed):
    code = ord(character)
    escaped = f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"
    assert (
        go_text.quote(character) == f'"{character if is_printed else escaped}"' == template_formatting.quote(character)
    )

"""Options, Modelfiles and other values of requests are read and written as Ollama does."""

import base64

import pytest
from first_value import parse_first
from recorded import check, load, outcome, recorded_outcome

from vkbackend.server.go import encode, kinds
from vkbackend.server.go import text as go_text
from vkbackend.server.go.binding import bind
from vkbackend.server.library import modelfile
from vkbackend.server.wire.native import ChatRequest, GenerateRequest
from vkbackend.server.wire.options import Options, format_parameters


def test_keep_alive_and_think_of_a_request():
    check(
        load("api_duration_think", "keep_alive_in_request"),
        lambda vector: (
            outcome(lambda: bind(GenerateRequest, vector["input_text"].encode()).keep_alive, kinds.BindError),
            recorded_outcome(vector, "keep_alive_ns"),
        ),
    )
    check(
        load("api_duration_think", "think_value"),
        lambda vector: (
            outcome(
                lambda: encode.dumps(
                    kinds.THINK.decode(parse_first(vector["input_text"].encode()), "", False, kinds.State())
                ),
                kinds.BindError,
            ),
            recorded_outcome(vector, "json"),
        ),
    )
    check(
        load("api_duration_think", "think_in_chat_request"),
        lambda vector: (
            outcome(lambda: _think(bind(ChatRequest, vector["input_text"].encode()).think), kinds.BindError),
            {"error": vector["error"]} if "error" in vector else (vector["bool"], vector["is_set"]),
        ),
    )


def _think(value):
    return bool(value), value is not None


def test_options_over_defaults():
    def got(vector):
        values = kinds.to_plain(parse_first(encode.dumps(vector["input"]).encode()))
        return encode.dumps(Options.defaults().update(values))

    check(
        load("api_options"), lambda vector: (outcome(lambda: got(vector), ValueError), recorded_outcome(vector, "json"))
    )


def test_parameters_of_a_modelfile():
    kinds = {int: "int", float: "float", encode.Float32: "float", bool: "bool", list: "string list"}

    def got(vector):
        values = format_parameters(vector["input"])
        return values, {name: kinds[type(value)] for name, value in values.items()}

    check(
        load("api_format_params"),
        lambda vector: (
            outcome(lambda: got(vector), ValueError),
            {"error": vector["error"]} if "error" in vector else (vector["output"], vector["types"]),
        ),
    )


def test_modelfiles_are_parsed_and_written():
    def both(vector):
        content = base64.b64decode(vector["input_b64"]) if "input_b64" in vector else vector["input"]
        try:
            commands = modelfile.parse(content)
        except modelfile.ModelfileError as error:
            return (str(error), error.line), (vector.get("error"), vector.get("line", 0))
        written = modelfile.write(commands)
        got = [{"args": command.args, "formatted": str(command), "name": command.name} for command in commands]
        return (got, written, modelfile.parse(written) == commands), (
            vector.get("commands"),
            vector.get("formatted"),
            vector.get("reparse_equal"),
        )

    check(load("modelfile"), both)


@pytest.mark.parametrize(
    "character",
    ["\U0001fa77", "\U0001fae8", "\U0001f6dc", "\U00031350", "\u0cf3", "\U0001fae9", "\U0002ebf0", "\U0003fffd"],
)
def test_a_modelfile_keeps_characters_that_python_does_not_know_yet(character):
    """Characters of Unicode 15, of 15.1 and 16, and unassigned ones."""
    commands = modelfile.parse(
        f"FROM x\nSYSTEM a {character} b\nPARAMETER stop {character}\nMESSAGE user {character}\n"
    )
    assert [command.args for command in commands] == ["x", f"a {character} b", character, f"user: {character}"]
    assert modelfile.parse(modelfile.write(commands)) == commands


def test_a_modelfile_drops_control_and_format_characters():
    assert modelfile.parse("FROM x\nSYSTEM a\x1b\x07\x7f\x85\u200b\u2028\u00a0b\n")[1].args == "ab"


def test_parameters_are_numbers_of_32_bits():
    """As Go reads PARAMETER lines, sends them in requests and shows them."""
    found = format_parameters(
        {"temperature": ["0.123456789"], "top_p": ["0.9"], "repeat_penalty": ["1.1"], "min_p": ["1e-45"]}
    )
    assert encode.dumps(found) == '{"min_p":1e-45,"repeat_penalty":1.1,"temperature":0.12345679,"top_p":0.9}'
    assert [go_text.value(found[name]) for name in ("temperature", "top_p", "min_p")] == ["0.12345679", "0.9", "1e-45"]


@pytest.mark.parametrize("images", ["[null]", '[null,""]', '["","AAAA",null]', "null"])
def test_images_come_back_as_they_were_sent(images):
    ask = bind(GenerateRequest, f'{{"model":"m","images":{images}}}'.encode())
    written = encode.dumps(ask)
    assert f'"images":{images}' in written if images != "null" else "images" not in written

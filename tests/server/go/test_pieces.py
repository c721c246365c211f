"""Long texts are read and written in pieces, and come out as if they were not."""

import base64
import json
import random
import re

import pytest

from vkbackend.server.go import decode, encode, kinds
from vkbackend.server.go.decode import parsed

ODD = ["a", "<", "&", "\u2028", "\ud800", "\udfff", "\U0001f600", '"', "\\", "\n", "\x01", "\u00e9"]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 200])
def test_a_text_is_written_in_pieces_as_in_one(monkeypatch, size):
    text = "".join(random.Random(size).choices(ODD, k=size))
    whole = encode.dumps(text), encode.dumps([text, text]), encode.dumps({text + "b": 1, text + "a": 2})
    for name in ("PIECE", "STRINGS", "KEYS"):
        monkeypatch.setattr(encode, name, 4)
    assert (encode.dumps(text), encode.dumps([text, text]), encode.dumps({text + "b": 1, text + "a": 2})) == whole


def test_keys_of_a_large_map_are_in_order(monkeypatch):
    keys = random.Random(0).sample(range(100_000), 50)
    monkeypatch.setattr(encode, "KEYS", 8)
    assert list(json.loads(encode.dumps(dict.fromkeys(map(str, keys))))) == sorted(map(str, keys))


@pytest.mark.parametrize("size", range(40))
def test_base64_is_decoded_in_pieces_as_in_one(monkeypatch, size):
    monkeypatch.setattr(kinds, "BASE64_PIECE", 8)
    data = random.Random(size).randbytes(size)
    text = base64.b64encode(data).decode()
    assert kinds.decode_base64(text) == data
    assert kinds.decode_base64("\r\n".join(text)) == data


@pytest.mark.parametrize(
    "text, at",
    [
        ("QUJDx", 4),
        ("QUI", 0),
        ("QUJDQUJDQUJD!UJD", 12),
        ("QUI=QUJDQUJDQUJD", 3),
        ("QUJDQUI=QUJDQUJD", 7),
        ("QUJD\nQUJDQU\u00e9D", 10),
        ("QUJDQUJDQUJDQ===", 13),
    ],
)
def test_the_first_byte_that_is_no_base64_is_named(monkeypatch, text, at):
    for piece in (8, 1 << 20):
        monkeypatch.setattr(kinds, "BASE64_PIECE", piece)
        with pytest.raises(kinds.IllegalBase64, match=f"at input byte {at}$"):
            kinds.decode_base64(text)


@pytest.mark.parametrize("value", [{"a": [1, 2.5, {"b": None, "c": ["x", True, "\u2028<"]}]}, [], "\u00e9", -1, 1e300])
def test_json_is_loaded_in_steps_as_in_one(monkeypatch, value):
    text = encode.dumps(value)
    whole = kinds.loads(text)
    monkeypatch.setattr(kinds, "LOADS_PIECE", 0)
    made = []
    assert kinds.loads(text, made) == whole == value
    assert type(kinds.loads(text)) is type(whole)
    assert len(made) == {dict: 4, list: 1}.get(type(value), 0)


def test_a_parsed_tree_is_taken_apart_at_the_end(monkeypatch):
    with parsed(b'{"a":[1,[2,{"b":3}]]}') as tree:
        inner = tree[0].value[1]
        assert inner[0] == "2" and inner[1][0].name == "b"
    assert tree == [] and inner == []


ESCAPES = [
    "a",
    "\u00e9",
    "\U0001f600",
    *r"\" \\ \/ \b \n \u00e9 \ud83d\ude00 \ud83d \ude00 \uD83D\u0041 \u0000".split(),
]
WRONG = ["\\x", "\\u12", "\\ud83d\\u12", "\x01", "\\"]


@pytest.mark.parametrize("seed", range(60))
def test_escapes_are_read_in_runs_as_one_by_one(monkeypatch, seed):
    """Halves of surrogate pairs and errors, too: the same text or the same words."""
    chooser = random.Random(seed)
    pieces = chooser.choices(ESCAPES, k=200)
    if seed % 2:
        pieces.insert(chooser.randrange(200), chooser.choice(WRONG))
    body = f'"{"".join(pieces)}"'.encode()
    in_runs = _read(body)
    monkeypatch.setattr(decode, "_ESCAPES", re.compile("(?!)"))
    assert _read(body) == in_runs


def _read(body):
    try:
        return decode.parse_all(body)
    except decode.JSONSyntaxError as error:
        return repr(error)

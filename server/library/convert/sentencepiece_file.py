"""tokenizer.model, SentencePiece's own file: a protocol buffer, of which the pieces are read and whether a space is
put in front of texts.

In: the file's bytes. Out: `SentencePieceFile`. Format: sentencepiece_model.proto (ModelProto: pieces = 1,
normalizer_spec = 3; SentencePiece: piece = 1, score = 2, type = 3; NormalizerSpec: add_dummy_prefix = 3),
https://protobuf.dev/programming-guides/encoding/
"""

import struct
from dataclasses import dataclass

from .source import CannotConvert

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
NORMAL = 1  # a piece's type where the file names none; its numbers are those of tokenizer.ggml.token_type
PIECES, NORMALIZER, ADD_DUMMY_PREFIX = 1, 3, 3


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    type: int


@dataclass(frozen=True)
class SentencePieceFile:
    """pieces: in the order of their ids."""

    pieces: list[Piece]
    adds_space: bool


def read(raw: bytes) -> SentencePieceFile:
    """Raises CannotConvert."""
    pieces, adds_space = [], True
    try:
        for number, value in _fields(raw):
            if number == PIECES:
                pieces.append(_piece(value))
            elif number == NORMALIZER:
                adds_space = bool(dict(_fields(value)).get(ADD_DUMMY_PREFIX, True))
    except (IndexError, ValueError, TypeError, struct.error):
        pieces = []
    if not pieces:
        raise CannotConvert("tokenizer.model is no SentencePiece model, or damaged; download it again")
    return SentencePieceFile(pieces, adds_space)


def _piece(raw: bytes) -> Piece:
    values = dict(_fields(raw))
    return Piece(
        values.get(1, b"").decode(), struct.unpack("<f", values[2])[0] if 2 in values else 0.0, values.get(3, NORMAL)
    )


def _fields(raw: bytes):
    """(number, value) of a message: an int, or bytes."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        kind = tag & 7
        if kind == VARINT:
            value, at = _varint(raw, at)
        else:
            size, at = (
                _varint(raw, at)
                if kind == BYTES
                else ({FIXED64: 8, FIXED32: 4}[kind] if kind in (FIXED64, FIXED32) else -1, at)
            )
            if not 0 <= size <= len(raw) - at:
                raise ValueError("a field runs past the end")
            value, at = raw[at : at + size], at + size
        yield tag >> 3, value


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number without end")

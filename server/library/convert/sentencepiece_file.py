"""Reads tokenizer.model, SentencePiece's file, a protocol buffer: its pieces, and whether texts get a leading space.

In: the file's bytes. Out: `SentencePieceFile`. Format: sentencepiece_model.proto (ModelProto: pieces = 1,
normalizer_spec = 3; SentencePiece: piece = 1, score = 2, type = 3; NormalizerSpec: add_dummy_prefix = 3),
https://protobuf.dev/programming-guides/encoding/
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .source import CannotConvert

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
NORMAL = 1  # default type of a piece; types are numbered as in tokenizer.ggml.token_type
PIECES, NORMALIZER, ADD_DUMMY_PREFIX = 1, 3, 3


@dataclass(frozen=True)
class SentencePiece:
    """One entry of the vocabulary."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class SentencePieceFile:
    """pieces: in the order of their ids. adds_space: whether texts get a leading space."""

    pieces: list[SentencePiece]
    adds_space: bool


def read(raw: bytes) -> SentencePieceFile:
    """Contents of the file. Raises CannotConvert."""
    pieces: list[SentencePiece] = []
    adds_space = True
    try:
        for number, value in _fields(raw):
            if number == PIECES:
                pieces.append(_piece(_as_bytes(value)))
            elif number == NORMALIZER:
                adds_space = bool(dict(_fields(_as_bytes(value))).get(ADD_DUMMY_PREFIX, True))
    except (IndexError, ValueError, TypeError, struct.error):
        pieces = []
    if not pieces:
        raise CannotConvert("tokenizer.model is not a SentencePiece model, or damaged; download it again")
    return SentencePieceFile(pieces, adds_space)


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("an integer instead of bytes")
    return value


def _piece(raw: bytes) -> SentencePiece:
    values = dict(_fields(raw))
    kind = values.get(3, NORMAL)
    if not isinstance(kind, int):
        raise ValueError("bytes instead of an integer")
    score = struct.unpack("<f", _as_bytes(values[2]))[0] if 2 in values else 0.0
    return SentencePiece(_as_bytes(values.get(1, b"")).decode(), score, kind)


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        kind = tag & 7
        if kind == VARINT:
            value, at = _varint(raw, at)
            yield tag >> 3, value
            continue
        if kind == BYTES:
            size, at = _varint(raw, at)
        else:
            size = {FIXED64: 8, FIXED32: 4}.get(kind, -1)
        if not 0 <= size <= len(raw) - at:
            raise ValueError("a field runs past the end")
        yield tag >> 3, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 127) << shift
        at += 1
        shift += 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a varint of more than 64 bits")

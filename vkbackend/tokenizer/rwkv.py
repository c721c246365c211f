"""The tokenizer of RWKV models (`tokenizer.ggml.model` = rwkv).

In: a text without special tokens. Out: ids. At each place of the UTF-8 text the longest token is taken. In GGUF files
the bytes of a token are escaped as in Python: `\\n`, `\\xff`.
"""

import re

from ..gguf.metadata import Metadata
from .vocabulary import SpecialDefaults, Vocabulary

ESCAPED = re.compile(rb"\\(?:x([0-9a-f]{2})|(.))", re.DOTALL)
ESCAPES = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


class Rwkv:
    """An RWKV vocabulary."""

    PLACE_TO_CUT = re.compile("(?!)")  # tokens reach across all white space

    def __init__(self, metadata: Metadata):
        self.vocabulary = Vocabulary(metadata, SpecialDefaults())
        self.vocabulary.add_bos = self.vocabulary.add_eos = False  # RWKV models have no such tokens, whatever the file
        self._ids = {self.token_bytes(token_id): token_id for token_id in range(len(self.vocabulary))}
        self._longest: dict[bytes, int] = {}  # bytes of the longest token, by its first two bytes
        for token in self._ids:
            self._longest[token[:2]] = max(len(token), self._longest.get(token[:2], 0))

    def encode(self, text: str, after_special: bool) -> list[int]:
        """`after_special` has no effect. Bytes of no token are unknown tokens, or dropped if there is none."""
        data, at = text.encode(), 0
        ids: list[int] = []
        unknown = () if self.vocabulary.unknown_id is None else (self.vocabulary.unknown_id,)
        while at < len(data):
            for end in range(min(len(data), at + self._longest.get(data[at : at + 2], 1)), at, -1):
                token_id = self._ids.get(data[at:end])
                if token_id is not None:
                    ids.append(token_id)
                    at = end
                    break
            else:
                ids += unknown
                at += 1
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token, whose id must be in the vocabulary."""
        return ESCAPED.sub(_unescaped, self.vocabulary.tokens[token_id].encode())


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match[1] is not None:
        return bytes([int(match[1], 16)])
    return ESCAPES.get(match[2], match[2])

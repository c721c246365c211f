"""SentencePiece as Llama 2, Mistral, Gemma and Phi-3 use it (`tokenizer.ggml.model` = llama).

In: a text without special tokens. Out: ids. Spaces become U+2581. Neighbours merge in the order of the score of the
token that they form, highest first. Symbols that are no token become byte tokens.
"""

import re
import string
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from ..errors import TokenizerError
from ..gguf.metadata import Metadata
from .merging import merge_pairs
from .vocabulary import CACHED_LENGTH, CACHED_WORDS, SpecialDefaults, TokenType, Vocabulary

SPACE = "\u2581"


class SentencePiece:
    """A SentencePiece vocabulary."""

    DEFAULTS = SpecialDefaults(bos_id=1, eos_id=2, unknown_id=0, add_bos=True, add_space_prefix=True)

    def __init__(self, metadata: Metadata):
        self.vocabulary = Vocabulary(metadata, self.DEFAULTS)
        # Ranks of tokens: 0 for the highest score, the same for equal scores.
        _, ranks = np.unique(-self.vocabulary.per_token(metadata, "scores", np.float32, 0.0), return_inverse=True)
        self._ranks = memoryview(ranks.astype(np.int32))
        self._byte_ids = self.vocabulary.byte_ids()
        self._word_start, letters = word_start(self.vocabulary.tokens)
        self.PLACE_TO_CUT = place_to_cut(letters)
        self._cached_word = lru_cache(CACHED_WORDS)(self._encode_word)

    def encode(self, text: str, after_special: bool) -> list[int]:
        """after_special: a space may be added before the text."""
        if after_special and self.vocabulary.add_space_prefix:
            text = " " + text
        ids: list[int] = []
        for word in self._word_start.split(text.replace(" ", SPACE)):
            if word:
                ids += self._cached_word(word) if len(word) <= CACHED_LENGTH else self._encode_word(word)
        return ids

    def _encode_word(self, word: str) -> tuple[int, ...]:
        id_of = self.vocabulary.tokens.find
        ids: list[int] = []
        for piece in merge_pairs(list(word), self._rank_of, ""):
            token_id = id_of(piece)
            ids += self._as_bytes(piece) if token_id is None else (token_id,)
        return tuple(ids)

    def _rank_of(self, text: str) -> int | None:
        token_id = self.vocabulary.tokens.find(text)
        return None if token_id is None else self._ranks[token_id]

    def _as_bytes(self, piece: str) -> list[int]:
        data = piece.encode()
        ids = [token_id for byte in data if (token_id := self._byte_ids[byte]) is not None]
        if len(ids) == len(data):
            return ids
        if self.vocabulary.unknown_id is None:
            raise TokenizerError(
                f"the vocabulary has neither a token nor byte tokens for {piece!r}, and no unknown token; convert the "
                f"model again"
            )
        return [self.vocabulary.unknown_id]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token, whose id must be in the vocabulary."""
        return plain_bytes(self.vocabulary, token_id)


def plain_bytes(vocabulary: Vocabulary, token_id: int) -> bytes:
    """The bytes of a token of plain text with U+2581 for spaces."""
    kind, text = vocabulary.types[token_id], vocabulary.tokens[token_id]
    if kind == TokenType.NORMAL:
        return text.replace(SPACE, " ").encode()
    if kind == TokenType.BYTE:
        return byte_of(text)
    return b"" if kind in (TokenType.UNUSED, TokenType.UNDEFINED) else text.encode()


def byte_of(text: str) -> bytes:
    """The byte of a byte token: b"A" for `<0x41>`. Raises TokenizerError."""
    try:
        return bytes([int(text[3:5], 16)])
    except ValueError:
        raise TokenizerError(f"the byte token {text!r} does not look like <0x41>; convert the model again") from None


def word_start(tokens: Iterable[str]) -> tuple[re.Pattern[str], str]:
    """A pattern that matches, with width 0, where a text can be cut without changing its tokens; and the ASCII letters
    after which it matches before a space. tokens: all texts that merges can make.

    It matches before a space, unless that follows a character which some token has before a space ('>' in Gemma 3:
    '>▁</'). No merge crosses such a place, so the words between them can be tokenized, and cached, one by one.
    """
    inside = {text[at - 1] for text in tokens if SPACE in text[1:] for at in range(1, len(text)) if text[at] == SPACE}
    followed = "".join(re.escape(character) for character in sorted(inside | {SPACE}))
    letters = "".join(letter for letter in string.ascii_letters if letter not in inside)
    return re.compile(f"(?<![{followed}])(?={SPACE})"), letters


def place_to_cut(letters: str, blanks: str = " ") -> re.Pattern[str]:
    """A pattern that matches, with width 0, between one of the letters and a blank."""
    return re.compile(f"(?<=[{letters}])(?={blanks})" if letters else "(?!)")

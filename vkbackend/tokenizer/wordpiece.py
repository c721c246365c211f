"""WordPiece as BERT embedding models use it (`tokenizer.ggml.model` = bert).

In: a text without special tokens. Out: ids. The text is converted to lower case without accents, and split into words
and punctuation. Each word becomes the longest tokens from left to right, or the unknown token. In GGUF files, tokens
that begin a word have U+2581 as their first character; the others continue one.
"""

import re
import unicodedata
from functools import lru_cache

from ..gguf.metadata import Metadata
from .vocabulary import CACHED_LENGTH, CACHED_WORDS, PREFIX, SpecialDefaults, TokenType, Vocabulary

WORD_START = "\u2581"
# Each character in these ranges is a word. U+2B920, not U+2B820, as in BERT's tokenizers.
CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
OTHER_SPACES = "\t\n\v\f\r\x85"


class WordPiece:
    """A WordPiece vocabulary."""

    PLACE_TO_CUT = re.compile("(?<=[A-Za-z])(?= )")

    def __init__(self, metadata: Metadata):
        cls_id = metadata.get(PREFIX + "cls_token_id", int, 101)
        self.vocabulary = Vocabulary(
            metadata, SpecialDefaults(bos_id=cls_id, unknown_id=100, separator_id=102, add_bos=True)
        )
        # BERT puts a text between [CLS] and [SEP], which are treated as bos and eos.
        self.vocabulary.add_bos = self.vocabulary.bos_id is not None
        self.vocabulary.eos_id = self.vocabulary.separator_id
        self.vocabulary.add_eos = self.vocabulary.separator_id is not None
        self.vocabulary.add_separator = False  # eos is the separator already
        self._lower = metadata.get(PREFIX + "normalizer.lowercase", bool, True)
        self._strip_accents = metadata.get(PREFIX + "normalizer.strip_accents", bool, self._lower)
        self._longest = max(map(len, self.vocabulary.tokens))
        self._cached_word = lru_cache(CACHED_WORDS)(self._encode_word)
        self._plain = lru_cache(CACHED_WORDS)(self._normalize)

    def encode(self, text: str, after_special: bool) -> list[int]:
        """`after_special` has no effect: every word begins with U+2581."""
        ids: list[int] = []
        for word in "".join(map(self._plain, text)).split(" "):
            if word:
                ids += self._cached_word(word) if len(word) <= CACHED_LENGTH else self._encode_word(word)
        return ids

    def _normalize(self, character: str) -> str:
        """What a character is replaced by: itself, its plain form, a space, nothing, or itself between spaces."""
        if self._strip_accents:
            character = unicodedata.normalize("NFD", character)[0]
        category = unicodedata.category(character)
        if category[0] == "Z" or character in OTHER_SPACES:
            return " "
        if character in "\0\ufffd" or category in ("Cc", "Cf", "Co", "Cs"):
            return ""
        if category[0] == "M" and self._strip_accents:
            return ""
        plain = character.lower()[0] if self._lower else character
        is_word = (
            category[0] == "P"
            or category[0] == "S"
            and character.isascii()
            or any(first <= ord(character) <= last for first, last in CHINESE)
        )
        return f" {plain} " if is_word else plain

    def _encode_word(self, word: str) -> tuple[int, ...]:
        word = WORD_START + word
        ids: list[int] = []
        start = 0
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                token_id = self.vocabulary.tokens.find(word[start:end])
                if token_id is not None:
                    break
            else:
                return () if self.vocabulary.unknown_id is None else (self.vocabulary.unknown_id,)
            ids.append(token_id)
            start = end
        return tuple(ids)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token, whose id must be in the vocabulary; with a leading space if it begins a word."""
        kind, text = self.vocabulary.types[token_id], self.vocabulary.tokens[token_id]
        if kind == TokenType.NORMAL:
            return text.replace(WORD_START, " ").encode()
        return b"" if kind in (TokenType.UNUSED, TokenType.UNDEFINED) else text.encode()

"""Byte-level BPE as GPT-2, Llama 3, Qwen and SmolLM use it (`tokenizer.ggml.model` = gpt2), and BPE on plain text as
Gemma 4 uses it.

In: a text without special tokens. Out: ids. The pre-tokenizer splits the text into words, each byte of a word is
written as one printable character, and pairs of characters are merged in the order of `tokenizer.ggml.merges`. Plain
text instead keeps its characters, with U+2581 for a space.
"""

import re
from functools import lru_cache
from string import ascii_letters

from ..gguf.metadata import Metadata
from .merging import merge_pairs
from .pretokenizers import WHITE_SPACE, Pretokenizer
from .sentencepiece import SPACE, byte_of, place_to_cut, plain_bytes, word_start
from .texts import Texts
from .vocabulary import CACHED_LENGTH, CACHED_WORDS, PREFIX, SpecialDefaults, TokenType, Vocabulary


def _byte_characters() -> list[str]:
    """GPT-2's alphabet, by byte. Printable Latin-1 characters stand for themselves; the other 68 bytes are U+0100,
    U+0101 ... in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


CHARACTER_OF_BYTE = dict(enumerate(_byte_characters()))  # for str.translate, on bytes decoded as Latin-1
BYTE_OF_CHARACTER = {character: bytes([byte]) for byte, character in CHARACTER_OF_BYTE.items()}


class ByteLevelBPE:
    """A byte-level BPE vocabulary."""

    def __init__(self, metadata: Metadata, pretokenizer: Pretokenizer):
        row = pretokenizer.row
        self._pretokenizer = pretokenizer
        self.PLACE_TO_CUT = re.compile(row.place_to_cut)
        self.vocabulary = Vocabulary(metadata, SpecialDefaults(add_bos=row.add_bos, add_separator=row.add_separator))
        self._merges = Texts(metadata.strings(PREFIX + "merges"))  # "left right", in order of rank
        self._cached_word = lru_cache(CACHED_WORDS)(self._encode_word)

    def encode(self, text: str, after_special: bool) -> list[int]:
        """`after_special` has no effect: byte-level BPE adds no space."""
        ids: list[int] = []
        for word in self._pretokenizer.split(text):
            ids += self._cached_word(word) if len(word) <= CACHED_LENGTH else self._encode_word(word)
        return ids

    def _encode_word(self, word: str) -> tuple[int, ...]:
        id_of = self.vocabulary.tokens.find
        ids: list[int] = []
        word = word.encode().decode("latin-1").translate(CHARACTER_OF_BYTE)
        if self._pretokenizer.row.whole_words and (token_id := id_of(word)) is not None:
            return (token_id,)
        for piece in merge_pairs(list(word), self._merges.find, " "):
            token_id = id_of(piece)
            if token_id is not None:
                ids.append(token_id)
            else:
                # Some vocabularies lack rare bytes (SmolLM2: a few control characters and the lead bytes F1 and F2).
                # As in llama.cpp, characters are looked up one by one then, only ASCII ones, and the rest is dropped.
                characters = (id_of(character) for character in piece if character < "\x80")
                ids += (token_id for token_id in characters if token_id is not None)
        return tuple(ids)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token, whose id must be in the vocabulary."""
        kind, text = self.vocabulary.types[token_id], self.vocabulary.tokens[token_id]
        if kind == TokenType.NORMAL:
            return b"".join(BYTE_OF_CHARACTER.get(character) or character.encode() for character in text)
        if kind == TokenType.BYTE:
            return byte_of(text)
        return b"" if kind in (TokenType.UNUSED, TokenType.UNDEFINED) else text.encode()


class PlainBPE(ByteLevelBPE):
    """A vocabulary of plain text with merges."""

    def __init__(self, metadata: Metadata, pretokenizer: Pretokenizer):
        super().__init__(metadata, pretokenizer)
        row = pretokenizer.row
        if row.add_bos:  # Gemma 4: also for files that say otherwise, which were converted wrongly
            self.vocabulary.add_bos = self.vocabulary.bos_id is not None
        self._byte_ids = [self.vocabulary.tokens.find(f"<0x{byte:02X}>") for byte in range(256)]
        if row.words_at_spaces:
            self._word_start, letters = re.compile(f"(?<!^)(?={SPACE})"), ascii_letters
        else:
            self._word_start, letters = word_start(merge.replace(" ", "", 1) for merge in self._merges)
        self.PLACE_TO_CUT = place_to_cut(letters, "[ \n]")

    def encode(self, text: str, after_special: bool) -> list[int]:
        """`after_special` has no effect."""
        ids: list[int] = []
        for line in self._pretokenizer.split(text.replace(" ", SPACE)):
            if self._pretokenizer.row.words_at_spaces and line[0] not in (SPACE, "\n"):
                line = SPACE + line
            for word in filter(None, self._word_start.split(line)):
                ids += self._cached_word(word) if len(word) <= CACHED_LENGTH else self._encode_word(word)
        return ids

    def _encode_word(self, word: str) -> tuple[int, ...]:
        id_of = self.vocabulary.tokens.find
        if self._pretokenizer.row.newline_tokens and word[0] == "\n" and (token_id := id_of(word)) is not None:
            return (token_id,)
        ids: list[int] = []
        for piece in merge_pairs(list(word), self._merges.find, " "):
            token_id = id_of(piece)
            found = (self._byte_ids[byte] for byte in piece.encode()) if token_id is None else (token_id,)
            ids += (token_id for token_id in found if token_id is not None)
        return tuple(ids)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token, whose id must be in the vocabulary."""
        return plain_bytes(self.vocabulary, token_id)


class WhitespaceBPE(PlainBPE):
    """A vocabulary of words without spaces, as jina-embeddings-v2-base-zh has it (`tokenizer.ggml.model` = whitespace).

    White space only separates words.
    """

    def __init__(self, metadata: Metadata, pretokenizer: Pretokenizer):
        super().__init__(metadata, pretokenizer)
        default = pretokenizer.row.names != "whitespace"
        self._lower = metadata.get(PREFIX + "normalizer.lowercase", bool, default)

    def encode(self, text: str, after_special: bool) -> list[int]:
        """`after_special` has no effect."""
        if self._lower:
            text = "".join(character.lower()[0] for character in text)
        ids: list[int] = []
        for word in filter(None, WHITE_SPACE.split(text)):
            ids += self._cached_word(word) if len(word) <= CACHED_LENGTH else self._encode_word(word)
        return ids


def read_bpe(metadata: Metadata) -> ByteLevelBPE:
    """The vocabulary of a file, with the pre-tokenizer that it names. Raises as `Vocabulary` does."""
    model = metadata.get(PREFIX + "model", str)
    pretokenizer = Pretokenizer.named("gemma4" if model == "gemma4" else metadata.get(PREFIX + "pre", str, None))
    if model == "whitespace":
        return WhitespaceBPE(metadata, pretokenizer)
    return (PlainBPE if pretokenizer.row.plain else ByteLevelBPE)(metadata, pretokenizer)

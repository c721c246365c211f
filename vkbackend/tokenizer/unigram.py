"""Unigram as T5, XLM-RoBERTa and the embedding models made from it use it (`tokenizer.ggml.model` = t5).

In: a text without special tokens. Out: ids. The characters are replaced by the file's table, spaces become U+2581, and
the tokens are those with the highest sum of scores. Characters of no token in a row are one unknown token.
"""

import math
import re
from functools import lru_cache

import numpy as np

from ..errors import TokenizerError
from ..gguf.metadata import Metadata
from .charsmap import Charsmap
from .sentencepiece import SPACE, place_to_cut, plain_bytes, word_start
from .vocabulary import CACHED_LENGTH, CACHED_WORDS, PREFIX, SpecialDefaults, TokenType, Vocabulary

IN_TEXTS = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
UNKNOWN_PENALTY = np.float32(10)  # of an unknown character below the lowest score


class Unigram:
    """A Unigram vocabulary."""

    DEFAULTS = SpecialDefaults(eos_id=1, unknown_id=2, add_eos=True)

    def __init__(self, metadata: Metadata):
        self.vocabulary = Vocabulary(metadata, self.DEFAULTS)
        if self.vocabulary.unknown_id is None:
            raise TokenizerError(f"the vocabulary has no unknown token ({PREFIX}unknown_token_id); convert it again")
        table = metadata.get(PREFIX + "precompiled_charsmap", list, ())
        self._charsmap = Charsmap(_bytes_of(table)) if len(table) else None
        self._merges_spaces = metadata.get(PREFIX + "remove_extra_whitespaces", bool, False)
        self._read_scores(metadata)
        self._longest: dict[str, int] = {}  # characters of the longest token, by its first character
        for text in self.vocabulary.tokens:
            if len(text) > self._longest.get(text[:1], 0):
                self._longest[text[:1]] = len(text)
        self._word_start, letters = word_start(self.vocabulary.tokens)
        self.PLACE_TO_CUT = self._place_to_cut(letters)
        self._cached_word = lru_cache(CACHED_WORDS)(self._encode_word)

    def _read_scores(self, metadata: Metadata) -> None:
        """Scores by id; NaN for tokens that texts cannot contain."""
        scores = self.vocabulary.per_token(metadata, "scores", np.float32, 0.0).copy()
        types = np.array(list(self.vocabulary.types), np.uint8)
        lowest = scores[types == TokenType.NORMAL].min(initial=np.float32(np.finfo(np.float32).max))
        self._unknown_score = float(lowest - UNKNOWN_PENALTY)
        scores[types == TokenType.USER_DEFINED] = 0
        scores[~np.isin(types, IN_TEXTS)] = np.nan
        self._scores = scores.data

    def _place_to_cut(self, letters: str) -> re.Pattern[str]:
        """Between a letter that stays a single token whatever follows, and a space."""
        if self._charsmap is None:
            return place_to_cut("".join(filter(self._is_token, letters)))
        if not self._charsmap.splits_at(" "):
            return place_to_cut("")
        replaced = {letter: self._charsmap.apply(letter) for letter in letters}
        return place_to_cut("".join(old for old, new in replaced.items() if new in letters and self._is_token(new)))

    def _is_token(self, text: str) -> bool:
        token_id = self.vocabulary.tokens.find(text)
        return token_id is not None and not math.isnan(self._scores[token_id])

    def encode(self, text: str, after_special: bool) -> list[int]:
        """after_special: a space may be added before the first word."""
        if self._charsmap is not None:
            text = self._charsmap.apply(text)
        if self._merges_spaces:
            text = "".join(SPACE + word for word in text.split(" ") if word)
        elif after_special and self.vocabulary.add_space_prefix and (first := text.lstrip(" ")):
            text = text[: len(text) - len(first)] + SPACE + first
        ids: list[int] = []
        unknown = self.vocabulary.unknown_id
        for word in filter(None, self._word_start.split(text.replace(" ", SPACE))):
            found = self._cached_word(word) if len(word) <= CACHED_LENGTH else self._encode_word(word)
            ids += found[1:] if ids and ids[-1] == unknown == found[0] else found
        return ids

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """The best tokens of each beginning of the word are found from those of the shorter beginnings."""
        id_of, scores, unknown = self.vocabulary.tokens.find, self._scores, self.vocabulary.unknown_id
        assert unknown is not None
        best = [0.0] + [-math.inf] * len(word)
        last = [(unknown, 0)] * (len(word) + 1)  # last token of the best ones, and where it begins
        for start, character in enumerate(word):
            before, is_token = best[start], False
            for end in range(start + 1, min(len(word), start + self._longest.get(character, 0)) + 1):
                token_id = id_of(word[start:end])
                if token_id is None or math.isnan(scores[token_id]):
                    continue
                is_token = is_token or end == start + 1
                if before + scores[token_id] > best[end]:
                    best[end], last[end] = before + scores[token_id], (token_id, start)
            if not is_token and before + self._unknown_score > best[start + 1]:
                best[start + 1], last[start + 1] = before + self._unknown_score, (unknown, start)
        ids: list[int] = []
        end = len(word)
        while end > 0:
            token_id, end = last[end]
            if not (ids and ids[-1] == token_id == unknown):
                ids.append(token_id)
        return tuple(reversed(ids))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token, whose id must be in the vocabulary."""
        return plain_bytes(self.vocabulary, token_id)


def _bytes_of(table: object) -> bytes:
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "iu" or table.itemsize != 1:
        raise TokenizerError(f"{PREFIX}precompiled_charsmap is no array of bytes; convert the model again")
    return table.tobytes()

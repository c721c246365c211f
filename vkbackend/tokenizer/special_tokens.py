"""Finds special tokens in a text, such as `<|im_start|>`, before the rest is tokenized.

In: a text. Out: its pieces in order: ids of special tokens, and the texts between. As in llama.cpp, longer tokens are
searched for first, in the whole text, so of two that overlap, the longer one wins even if it begins later.
"""

import re
from collections.abc import Iterator

from .vocabulary import TokenType, Vocabulary

WHEN_PARSED = (TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNKNOWN)
SPACES = " \t\n\v\f\r"


class SpecialTokens:
    """The special tokens of a vocabulary.

    strips_left, strips_right: ids of tokens that strip the white space before (after) them. num_ids: larger ids are
    ignored. texts: of all tokens. at_cuts: texts that a cut between a letter and white space can split or touch.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        strips_left: frozenset[int] = frozenset(),
        strips_right: frozenset[int] = frozenset(),
        num_ids: int | None = None,
    ):
        self._vocabulary = vocabulary
        self._strips_left = strips_left
        self._strips_right = strips_right
        self._num_ids = num_ids
        self._groups = self._by_first_pair()
        self.texts = [text for group in self._groups.values() for _, _, text in group]
        self.at_cuts = [text for text in self.texts if re.search(r"[A-Za-z](?:\s|$)", text)]

    def _by_first_pair(self) -> dict[str, list[tuple[int, int, str]]]:
        """(-bytes, id, text) of tokens, by their first two characters (one, for a token of one). Few groups occur in a
        text, so few tokens are searched for.
        """
        tokens = self._vocabulary.tokens
        groups: dict[str, list[tuple[int, int, str]]] = {}
        types = self._vocabulary.types[: self._num_ids]
        special = [token_id for token_id, kind in enumerate(types) if kind in WHEN_PARSED]
        for token_id in special:
            if text := tokens[token_id]:
                groups.setdefault(text[:2], []).append((-len(text.encode()), token_id, text))
        return groups

    def split(self, text: str, parse_special: bool) -> list[int | str]:
        """Ids and non-empty texts, in order. Without `parse_special` only user-defined tokens are found."""
        if not text:
            return []
        types = self._vocabulary.types
        occurring = set(text).union(map(str.__add__, text, text[1:]))
        found = [
            entry
            for pair in occurring & self._groups.keys()
            for entry in self._groups[pair]
            if (parse_special or types[entry[1]] == TokenType.USER_DEFINED) and entry[2] in text
        ]
        pieces: list[int | str] = [text]
        for _, token_id, token in sorted(found):
            pieces = [
                part
                for piece in pieces
                for part in (self._cut(piece, token, token_id) if isinstance(piece, str) else (piece,))
            ]
        return pieces

    def _cut(self, piece: str, token: str, token_id: int) -> Iterator[int | str]:
        parts = piece.split(token)
        for index, part in enumerate(parts):
            if index:
                yield token_id
                if token_id in self._strips_right:
                    part = part.lstrip(SPACES)
            if index + 1 < len(parts) and token_id in self._strips_left:
                part = part.rstrip(SPACES)
            if part:
                yield part

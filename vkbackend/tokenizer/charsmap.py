"""Replacement of characters before Unigram tokenizing (`tokenizer.ggml.precompiled_charsmap`), such as NFKC.

In: the table as SentencePiece writes it. Out: `Charsmap`. The table is a size in four bytes, a double-array trie of
that size whose keys are the UTF-8 of texts to replace, and the replacements, each ended by a zero byte.
"""

import re
import struct
from functools import lru_cache

import numpy as np

from ..errors import TokenizerError

CACHED_CHARACTERS = 1 << 14
CACHED_PAIRS = 1 << 16
LONGEST_KEY = 64  # characters
ASCII = [chr(code) for code in range(1, 128)]
DAMAGED = "tokenizer.ggml.precompiled_charsmap is damaged (%s); convert the model again"


class Charsmap:
    """Replaces texts; of several keys that match at a place, the longest counts."""

    def __init__(self, data: bytes):
        """Raises TokenizerError if the table is damaged."""
        size = struct.unpack_from("<I", data)[0] if len(data) >= 4 else len(data)
        if not 4 <= size < len(data) - 4:
            raise TokenizerError(DAMAGED % "the trie is as long as the table or longer")
        units = np.frombuffer(data, "<u4", size // 4, 4).astype(np.uint32)
        self._units = units.data
        self._texts = data[4 + size :]
        self._first = lru_cache(CACHED_CHARACTERS)(self._find_first)
        self._goes_on = lru_cache(CACHED_PAIRS)(self._finds_pair)
        self._ascii = {ord(character): self._first(character)[0] for character in ASCII}
        # Usually keys have ASCII characters only at their start; then no key reaches across the ends of these matches.
        self._has_later_ascii = _has_later_ascii(units)
        self._cluster = re.compile(r"(?s)(.+)" if self._has_later_ascii else r"([\x00-\x7f]?[^\x00-\x7f]+)")

    def apply(self, text: str) -> str:
        """The text with everything replaced."""
        pieces = self._cluster.split(text)  # every second one is a cluster
        pieces[::2] = [piece.translate(self._ascii) for piece in pieces[::2]]
        pieces[1::2] = map(self._replace, pieces[1::2])
        return "".join(pieces)

    def splits_at(self, character: str) -> bool:
        """Whether an ASCII character stays as it is, and no replacement reaches across it."""
        return not self._has_later_ascii and self._ascii[ord(character)] == character

    def _replace(self, text: str) -> str:
        found, at = [], 0
        while at < len(text):
            replacement, goes_on = self._first(text[at])
            length = 1
            if goes_on and at + 1 < len(text) and self._goes_on(text[at : at + 2]):
                data = text[at : at + LONGEST_KEY].encode()
                num_bytes, longest, _ = self._walk(data)
                if longest is not None:
                    replacement, length = longest, len(data[:num_bytes].decode("utf-8", "ignore"))
            found.append(replacement)
            at += max(length, 1)
        return "".join(found)

    def _find_first(self, character: str) -> tuple[str, bool]:
        """What one character is replaced by, and whether longer keys can begin with it."""
        _, replacement, goes_on = self._walk(character.encode())
        return character if replacement is None else replacement, goes_on

    def _finds_pair(self, pair: str) -> bool:
        return self._walk(pair.encode())[2]

    def _walk(self, data: bytes) -> tuple[int, str | None, bool]:
        """The longest key that `data` begins with: its bytes, and its replacement (None if there is no key); and
        whether some key begins with the whole of `data`.

        A unit holds the byte that leads to it (bits 0 to 7 and 31), whether a key ends there (bit 8), and the offset of
        its children (bits 10 to 30, times 256 with bit 9). A child's index is the parent's, XOR offset, XOR byte; that
        of the value is the same with byte 0.
        """
        units = self._units
        found: tuple[int, str | None] = (0, None)
        at = _offset(units[0])
        for number, byte in enumerate(data, 1):
            at ^= byte
            if at >= len(units) or byte == 0 or units[at] & 0x800000FF != byte:
                return found[0], found[1], False
            ends = units[at] & 256
            at ^= _offset(units[at])
            if ends:
                if at >= len(units):
                    raise TokenizerError(DAMAGED % "a value is missing")
                found = number, self._text(units[at] & 0x7FFFFFFF)
        return found[0], found[1], True

    def _text(self, start: int) -> str:
        end = self._texts.find(b"\0", start)
        if end < 0:
            raise TokenizerError(DAMAGED % "a replacement has no end")
        return self._texts[start:end].decode("utf-8", "replace")


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 512) >> 6)


def _has_later_ascii(units: np.ndarray) -> bool:
    """Whether any key has an ASCII character after its first one."""
    labels = (units & np.uint32(0x800000FF)).astype(np.int64)
    children = np.flatnonzero((labels > 0) & (labels < 256))  # with units of no key, which are not reached below
    labels = labels[children]
    offsets = (units[children] >> np.uint32(10)) << ((units[children] & np.uint32(512)) >> np.uint32(6))
    # The children of a unit are counted from its index XOR its offset, here called its state.
    parents, states = children ^ labels, children ^ offsets.astype(np.int64)
    num_states = parents.max(initial=0) + 1
    states = np.where(states < num_states, states, num_states)  # those without children
    seen = np.zeros(num_states + 1, bool)
    seen[min(_offset(int(units[0])), num_states)] = True
    is_new, is_first = seen.copy(), True
    while is_new.any():
        reached = is_new[parents]
        if not is_first and (labels[reached] < 128).any():
            return True
        is_new = np.zeros_like(seen)
        is_new[states[reached]] = True
        is_new &= ~seen
        seen |= is_new
        is_first = False
    return False

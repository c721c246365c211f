"""Many short texts by number, and their numbers by text, in a sixth of the memory of Python's own strings in a list
and a dict.

In: the strings of a GGUF array. Out: `Texts`. Gemma 3's vocabulary of 262,144 tokens takes 7 MiB so, and would take
40.
"""

from functools import lru_cache

import numpy as np

CACHED_TEXTS = 1 << 14


class Texts:
    """A sequence of texts: `texts[number]` makes a new string each time, `find(text)` is the other way round.

    They lie one behind the other as UTF-8. Their hashes are sorted into about as many buckets as there are texts, by
    their low bits; of the high bits 32 are kept, so that few texts are compared in vain.
    """

    def __init__(self, pieces: list[bytes]):
        """pieces: the texts in UTF-8; what is not valid in one is read as U+FFFD."""
        count = len(pieces)
        self._block = b"".join(pieces)
        self._bounds = _compact(np.cumsum([0, *map(len, pieces)]))  # text n: bytes bounds[n] to bounds[n + 1]
        hashes = np.fromiter(map(hash, self), np.int64, count)
        self._mask = (1 << max(count - 1, 0).bit_length()) - 1
        buckets = hashes & self._mask
        order = np.argsort(buckets, kind="stable")  # within a bucket by number: of equal texts the first is found
        self._first = _compact(
            np.searchsorted(buckets[order], np.arange(self._mask + 2))
        )  # bucket b: from first[b] to first[b + 1]
        self._hashes, self._numbers = memoryview((hashes[order] >> 32).astype(np.int32)), _compact(order)
        self.find = lru_cache(CACHED_TEXTS)(self._find)

    def __len__(self):
        return len(self._bounds) - 1

    def __getitem__(self, number: int) -> str:
        return self._block[self._bounds[number] : self._bounds[number + 1]].decode("utf-8", "replace")

    def __iter__(self):
        block, start = self._block, 0
        for end in self._bounds[1:]:
            yield block[start:end].decode("utf-8", "replace")
            start = end

    def __contains__(self, text: str) -> bool:
        return self.find(text) is not None

    def _find(self, text: str) -> int | None:
        """`find(text)`: the number of the first text that is equal, or None."""
        key, hashes = hash(text), self._hashes
        bucket, high = key & self._mask, key >> 32
        for at in range(self._first[bucket], self._first[bucket + 1]):
            if hashes[at] == high and self[self._numbers[at]] == text:
                return self._numbers[at]
        return None


def _compact(numbers: np.ndarray) -> memoryview:
    """Numbers from 0 on, in as few bytes as hold the largest; as a memoryview, whose items are read three times as
    fast.
    """
    return memoryview(numbers.astype(np.min_scalar_type(numbers.max(initial=0))))

"""Pages of the KV cache: which physical page holds which tokens of which sequence.

In: sequences that grow, shrink and end. Out: rows of the step buffer's page table. The bytes themselves belong to the
executor (`graph.cache`); this module only counts pages, so it can be tested without a device.
"""

from dataclasses import dataclass, field

import numpy as np

from ..errors import OutOfMemory


@dataclass
class CachedSequence:
    """One sequence's tokens in the cache. `slot` is its row in the page table."""

    slot: int
    length: int = 0
    pages: list[int] = field(default_factory=list)


class PagedCache:
    """num_pages physical pages of page_size tokens, shared by at most max_sequences sequences."""

    def __init__(self, num_pages: int, page_size: int, max_sequences: int, pages_per_sequence: int):
        self.page_size, self.pages_per_sequence = page_size, pages_per_sequence
        self.free_pages = list(range(num_pages - 1, -1, -1))
        self.free_slots = list(range(max_sequences - 1, -1, -1))
        self.num_pages = num_pages
        self.table = np.zeros((max_sequences, pages_per_sequence), np.int32)

    def open(self) -> CachedSequence:
        if not self.free_slots:
            raise OutOfMemory(f"all {len(self.table)} sequence slots of the cache are in use; wait for one to end, or raise OLLAMA_NUM_PARALLEL")
        return CachedSequence(self.free_slots.pop())

    def extend(self, sequence: CachedSequence, num_tokens: int) -> None:
        """Make room for num_tokens more; either all of them fit or nothing changes.

        Raises OutOfMemory when the sequence would outgrow the context or no pages are free.
        """
        needed = -(-(sequence.length + num_tokens) // self.page_size)
        if needed > self.pages_per_sequence:
            raise OutOfMemory(f"{sequence.length + num_tokens} tokens do not fit a context of {self.pages_per_sequence * self.page_size}")
        missing = needed - len(sequence.pages)
        if missing > len(self.free_pages):
            raise OutOfMemory(f"the KV cache is full: {missing} pages of {self.page_size} tokens needed, {len(self.free_pages)} free")
        for _ in range(missing):
            page = self.free_pages.pop()
            self.table[sequence.slot, len(sequence.pages)] = page
            sequence.pages.append(page)
        sequence.length += num_tokens

    def truncate(self, sequence: CachedSequence, length: int) -> None:
        """Forget all tokens from `length` on and give their whole pages back."""
        if not 0 <= length <= sequence.length:
            raise ValueError(f"cannot truncate a sequence of {sequence.length} tokens to {length}")
        keep = -(-length // self.page_size)
        self.free_pages.extend(reversed(sequence.pages[keep:]))
        del sequence.pages[keep:]
        sequence.length = length

    def close(self, sequence: CachedSequence) -> None:
        self.truncate(sequence, 0)
        self.free_slots.append(sequence.slot)

"""Pages of the KV cache: which physical page holds which tokens of which sequence.

In: sequences that open, grow and close. Out: rows of the step buffer's page table. A page is free, or owned by one
sequence while it fills, or known (`prefix_cache`) once it is full: then any number of sequences with the same beginning
share it, it is not written any more, and it is kept after they close until its room is needed. The memory belongs to
the executor (`graph.cache`); this module only counts pages, so it can be tested without a device.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import OutOfMemory
from .contract import PageCounts
from .prefix_cache import KnownPage, PrefixCache
from .prompt import Cell


@dataclass
class CachedSequence:
    """One sequence in the cache.

    slot: its row in the page table
    is_shared: whether its full pages become known
    pages: physical pages in order; the known ones, which are not written any more, come first
    """

    slot: int
    is_shared: bool = False
    tokens: list[Cell] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    known: list[KnownPage] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.tokens)


class PagedCache:
    """num_pages physical pages of page_size tokens, shared by at most max_sequences sequences."""

    def __init__(self, num_pages: int, page_size: int, max_sequences: int, pages_per_sequence: int):
        self.page_size = page_size
        self.pages_per_sequence = pages_per_sequence
        self.free_pages = list(range(num_pages - 1, -1, -1))
        self.free_slots = list(range(max_sequences - 1, -1, -1))
        self.num_pages = num_pages
        self.prefixes = PrefixCache(page_size)
        self.table = np.zeros((max_sequences, pages_per_sequence), np.int32)

    def open(self, tokens: Sequence[Cell] | None = None) -> CachedSequence:
        """Open a sequence.

        Without `tokens` it is empty and shares nothing. With `tokens` it shares its pages and starts with the longest
        known prefix of `tokens`. Raises OutOfMemory if max_sequences are open.
        """
        if not self.free_slots:
            raise OutOfMemory(
                f"all {len(self.table)} sequence slots of the cache are in use; wait for one to end, or raise "
                f"OLLAMA_NUM_PARALLEL"
            )
        sequence = CachedSequence(self.free_slots.pop(), tokens is not None)
        if tokens:
            self._reuse(sequence, tokens)
        return sequence

    def _reuse(self, sequence: CachedSequence, tokens: Sequence[Cell]) -> None:
        for known in self.prefixes.find(tokens):
            self.prefixes.use(known)
            sequence.known.append(known)
            self._append(sequence, known.page)
        length = len(sequence.known) * self.page_size
        end = self.prefixes.take_end(self._last_known(sequence), tokens[length : length + self.page_size])
        if end is not None:
            page, count = end
            self._append(sequence, page)
            length += count
        sequence.tokens = list(tokens[:length])

    def num_known(self, tokens: Sequence[Cell]) -> int:
        """Length of the prefix of `tokens` that is in known full pages."""
        return len(self.prefixes.find(tokens)) * self.page_size

    def has_room(
        self, growth: Iterable[tuple[CachedSequence, int]], beginning: Sequence[Cell] = (), num_tokens: int = 0
    ) -> bool:
        """Whether each sequence can grow by its number of tokens, together with a new sequence of num_tokens tokens
        that begins with `beginning`.
        """
        known = self.prefixes.find(beginning)
        needed = self._count(num_tokens) - len(known) if num_tokens else 0
        needed += sum(self._count(sequence.length + more) - len(sequence.pages) for sequence, more in growth)
        return needed <= self.num_available - sum(not page.users for page in known)

    @property
    def num_available(self) -> int:
        """Number of pages that a sequence could get: the free and the unused ones."""
        return len(self.free_pages) + len(self.prefixes.unused)

    def counts(self) -> PageCounts:
        """The pages by their state."""
        free = len(self.free_pages)
        available = self.num_available
        return PageCounts(free, available - free, self.num_pages - available)

    def extend(self, sequence: CachedSequence, tokens: Sequence[Cell]) -> None:
        """Append tokens, which `commit` declares stored. Changes nothing if not all of them fit.

        Raises OutOfMemory if the sequence would outgrow the context or all pages are in use.
        """
        needed = self._count(sequence.length + len(tokens))
        if needed > self.pages_per_sequence:
            raise OutOfMemory(
                f"{sequence.length + len(tokens)} tokens do not fit a context of "
                f"{self.pages_per_sequence * self.page_size}"
            )
        missing = needed - len(sequence.pages)
        if missing > self.num_available:
            raise OutOfMemory(
                f"the KV cache is full: {missing} pages of {self.page_size} tokens needed, {self.num_available} of "
                f"{self.num_pages} not in use; use a smaller num_ctx, or fewer parallel sequences (OLLAMA_NUM_PARALLEL)"
            )
        for _ in range(missing):
            self._append(sequence, self.free_pages.pop() if self.free_pages else self.prefixes.evict())
        sequence.tokens.extend(tokens)

    def commit(self, sequence: CachedSequence) -> None:
        """Declare the sequence's tokens stored: its full pages become known."""
        if not sequence.is_shared:
            return
        for index in range(len(sequence.known), sequence.length // self.page_size):
            tokens = tuple(sequence.tokens[index * self.page_size : (index + 1) * self.page_size])
            known = self.prefixes.add(self._last_known(sequence), tokens, sequence.pages[index])
            if known.page != sequence.pages[index]:  # another sequence has stored the same: keep one copy
                self.free_pages.append(sequence.pages[index])
                sequence.pages[index] = self.table[sequence.slot, index] = known.page
            self.prefixes.use(known)
            sequence.known.append(known)

    def truncate(self, sequence: CachedSequence, length: int) -> None:
        """Drop all tokens from `length` on and free their whole pages. Raises ValueError if known pages hold some of
        them.
        """
        if not len(sequence.known) * self.page_size <= length <= sequence.length:
            raise ValueError(
                f"cannot truncate a sequence of {sequence.length} tokens to {length}; "
                f"{len(sequence.known) * self.page_size} are in pages that others may use"
            )
        keep = self._count(length)
        self.free_pages.extend(reversed(sequence.pages[keep:]))
        del sequence.pages[keep:]
        del sequence.tokens[length:]

    def close(self, sequence: CachedSequence) -> None:
        """Close a sequence. What it stored stays known until its room is needed, including a partly filled page."""
        if sequence.is_shared:
            self._keep_end(sequence)
        self.truncate(sequence, len(sequence.known) * self.page_size)
        for known in reversed(sequence.known):
            self.prefixes.release(known)
        self.free_slots.append(sequence.slot)

    def forget(self) -> None:
        """Free all pages that no sequence uses."""
        while self.prefixes.unused:
            self.free_pages.append(self.prefixes.evict())

    def _keep_end(self, sequence: CachedSequence) -> None:
        first = len(sequence.known) * self.page_size
        if first == sequence.length:
            return
        known = self.prefixes.add(self._last_known(sequence), tuple(sequence.tokens[first:]), sequence.pages[-1])
        if known.page == sequence.pages[-1]:
            sequence.pages.pop()
            del sequence.tokens[first:]
        else:
            self.prefixes.unused.move_to_end(known)

    def _last_known(self, sequence: CachedSequence) -> KnownPage:
        return sequence.known[-1] if sequence.known else self.prefixes.root

    def _count(self, num_tokens: int) -> int:
        """Number of pages for num_tokens tokens."""
        return -(-num_tokens // self.page_size)

    def _append(self, sequence: CachedSequence, page: int) -> None:
        self.table[sequence.slot, len(sequence.pages)] = page
        sequence.pages.append(page)

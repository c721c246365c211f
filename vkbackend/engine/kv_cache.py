"""Pages of the KV cache: which physical page holds which tokens of which sequence.

In: sequences that open, grow and close. Out: rows of the step buffer's page table. A page is free, or owned by one
sequence while it fills, or known (`prefix_cache`) once it is full: then any number of sequences with the same beginning
share it, it is not written any more, and it is kept after they close until its room is needed. The memory belongs to
the executor (`graph.cache`); this module only counts pages, so it can be tested without a device.

What is called a page here is one of the layers that see the whole context. Layers with a window have pages of their own
(`windows`), of which there are always enough for open sequences.
"""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import OutOfMemory
from ..graph.cache_layout import LayerGroup
from ..graph.step import PageTable
from .contract import PageCounts
from .prefix_cache import KnownPage, Prefix, PrefixCache
from .prompt import Cell
from .windows import Window, Windows


@dataclass
class CachedSequence:
    """One sequence in the cache.

    slot: its row in the page tables
    is_shared: whether its full pages become known
    pages: physical pages in order; the known ones, which are not written any more, come first
    windows: its pages in each group of layers with a window
    marks: numbers of pages after which others may want to continue: at the end of the prompt, and where another text is
    known to continue differently
    """

    slot: int
    is_shared: bool = False
    tokens: list[Cell] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    known: list[KnownPage] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    marks: set[int] = field(default_factory=set)

    @property
    def length(self) -> int:
        """Number of cells in the cache."""
        return len(self.tokens)


class PagedCache:
    """num_pages physical pages of page_size tokens, shared by at most max_sequences sequences.

    windowed: the groups of layers with a window. tables: the page tables, that of the whole context first.
    """

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        max_sequences: int,
        pages_per_sequence: int,
        windowed: Sequence[LayerGroup] = (),
    ):
        self.page_size = page_size
        self.pages_per_sequence = pages_per_sequence
        self.free_pages = list(range(num_pages - 1, -1, -1))
        self.free_slots = list(range(max_sequences - 1, -1, -1))
        self.num_pages = num_pages
        self.max_sequences = max_sequences
        self.prefixes = PrefixCache(page_size, len(windowed))
        table_shape = max_sequences, pages_per_sequence
        self.windows = Windows(windowed, page_size, table_shape)
        self._table = PageTable(np.zeros(table_shape, np.int32))
        self.tables = [self._table, *(pool.table for pool in self.windows.pools)]

    def open(self, prefix: Prefix | None = None) -> CachedSequence:
        """Open a sequence.

        Without `prefix` it is empty and shares nothing. With `prefix` it shares its pages and starts with the longest
        part of it from which layers with a window can continue, too. Raises OutOfMemory if max_sequences are open.
        """
        if not self.free_slots:
            raise OutOfMemory(
                f"all {self.max_sequences} sequence slots of the cache are in use; wait for one to end, or raise "
                f"OLLAMA_NUM_PARALLEL"
            )
        sequence = CachedSequence(self.free_slots.pop(), prefix is not None)
        if prefix is None:
            self.windows.open(sequence, is_shared=False)
        else:
            self._reuse(sequence, prefix)
        return sequence

    def _reuse(self, sequence: CachedSequence, prefix: Prefix) -> None:
        found = self.prefixes.find(prefix)
        count = self.windows.reach(found)
        for known in found[:count]:
            self.prefixes.use(known)
            sequence.known.append(known)
            self._append(sequence, known.page)
        self.windows.open(sequence, is_shared=True)
        length = count * self.page_size
        sequence.marks = {len(found), prefix.length // self.page_size}
        if count == len(found):
            length += self._reuse_end(sequence, prefix.tokens[length : min(length + self.page_size, prefix.length)])
        sequence.tokens = list(prefix.tokens[:length])

    def _reuse_end(self, sequence: CachedSequence, tokens: Sequence[Cell]) -> int:
        """Continue in a page that another sequence left partly filled. Returns the number of tokens that it shares."""
        last = self._last_known(sequence)
        end, count = self.prefixes.take_end(last, tokens)
        if end is not None:
            self._append(sequence, end.page)
            self.windows.take(sequence, end)
        if last.children:  # others have continued from here, and more may do so
            self.windows.keep(sequence)
        return count

    def num_known(self, prefix: Prefix, beyond: int = 0) -> int:
        """The number of tokens in full pages that a sequence opened with `prefix` would start with. It may be 0 if that
        is not more than `beyond`.
        """
        found = self.prefixes.find(prefix)
        if len(found) * self.page_size <= beyond:
            return 0
        return self.windows.reach(found, beyond // self.page_size) * self.page_size

    def has_room(
        self, growth: Iterable[tuple[CachedSequence, int]], prefix: Prefix | None = None, num_tokens: int = 0
    ) -> bool:
        """Whether each sequence can grow by its number of tokens, together with a new sequence of num_tokens tokens
        that begins with `prefix`.
        """
        needed = self._count(num_tokens)
        needed += sum(self._count(sequence.length + more) - len(sequence.pages) for sequence, more in growth)
        if needed <= self.num_available or prefix is None:
            return needed <= self.num_available
        # A page that is reused is not needed, but if nobody uses it now, it is not available either.
        found = self.prefixes.find(prefix)
        reused = found[: self.windows.reach(found)]
        in_use = bisect.bisect_left(reused, True, key=lambda known: not known.users)  # those come first
        return needed - in_use <= self.num_available

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
            self._append(sequence, self.free_pages.pop() if self.free_pages else self._evict())
        sequence.tokens.extend(tokens)

    def slide(self, sequence: CachedSequence, length: int) -> None:
        """Move the sequence's windows on for the part of a step that runs its tokens before `length`. Nothing to do if
        no layer has a window.
        """
        self.windows.slide(sequence, length)

    def commit(self, sequence: CachedSequence) -> None:
        """Declare the sequence's tokens stored: its full pages become known."""
        if not sequence.is_shared:
            return
        for index in range(len(sequence.known), sequence.length // self.page_size):
            tokens = tuple(sequence.tokens[index * self.page_size : (index + 1) * self.page_size])
            known = self.prefixes.add(self._last_known(sequence), tokens, sequence.pages[index])
            if known.page != sequence.pages[index]:  # another sequence has stored the same: keep one copy
                self.free_pages.append(sequence.pages[index])
                sequence.pages[index] = known.page
                self._table.set(sequence.slot, index, known.page)
            self.prefixes.use(known)
            sequence.known.append(known)
            self.windows.share(sequence, known)
            if len(sequence.known) in sequence.marks:
                self.windows.keep(sequence)

    def truncate(self, sequence: CachedSequence, length: int) -> None:
        """Drop all tokens from `length` on and free their whole pages.

        Raises ValueError if known pages hold some of them, or if a window before `length` was freed.
        """
        if not len(sequence.known) * self.page_size <= length <= sequence.length:
            raise ValueError(
                f"cannot truncate a sequence of {sequence.length} tokens to {length}; "
                f"{len(sequence.known) * self.page_size} are in pages that others may use"
            )
        if 0 < length < min(sequence.length, self.windows.shortest(sequence)):
            raise ValueError(
                f"cannot truncate a sequence of {sequence.length} tokens to {length}; its layers with a window keep "
                f"what follows {self.windows.shortest(sequence)} tokens, or nothing"
            )
        self._drop_after(sequence, length)

    def _drop_after(self, sequence: CachedSequence, length: int) -> None:
        keep = self._count(length)
        self.windows.truncate(sequence, length)
        self.free_pages.extend(reversed(sequence.pages[keep:]))
        del sequence.pages[keep:]
        del sequence.tokens[length:]

    def undo(self, sequence: CachedSequence, length: int) -> None:
        """Truncate to `length` after a step that failed. If windows have moved on within the step, keep tokens of the
        parts that have run.
        """
        shortest = self.windows.shortest(sequence)
        self.truncate(sequence, min(max(length, shortest), sequence.length))
        if sequence.length > length:
            self.commit(sequence)

    def close(self, sequence: CachedSequence, is_end: bool = True) -> None:
        """Close a sequence. What it stored stays known until its room is needed.

        is_end: also keep a partly filled last page and the last window, so that another sequence can continue there.
        """
        if sequence.is_shared and is_end:
            self._keep_end(sequence)
        self._drop_after(sequence, len(sequence.known) * self.page_size)
        self.windows.close(sequence)
        for known in reversed(sequence.known):
            self.prefixes.release(known)
        self.free_slots.append(sequence.slot)

    def forget(self) -> None:
        """Free all pages that no sequence uses."""
        self.windows.forget_all()
        while self.prefixes.unused:
            self.free_pages.append(self._evict())

    def _keep_end(self, sequence: CachedSequence) -> None:
        first = len(sequence.known) * self.page_size
        if first == sequence.length:
            self.windows.keep(sequence)
            return
        known = self.prefixes.add(self._last_known(sequence), tuple(sequence.tokens[first:]), sequence.pages[-1])
        if known.page == sequence.pages[-1]:
            sequence.pages.pop()
            del sequence.tokens[first:]
        else:
            self.prefixes.unused.move_to_end(known)
        if None in known.window_pages:
            self.windows.keep(sequence, known)
        else:
            self.windows.touch(known)

    def _evict(self) -> int:
        """Drop the least recently used page and return its number."""
        known = self.prefixes.evict()
        self.windows.forget(known)
        return known.page

    def _last_known(self, sequence: CachedSequence) -> KnownPage:
        return sequence.known[-1] if sequence.known else self.prefixes.root

    def _count(self, num_tokens: int) -> int:
        """Number of pages for num_tokens tokens."""
        return -(-num_tokens // self.page_size)

    def _append(self, sequence: CachedSequence, page: int) -> None:
        self._table.set(sequence.slot, len(sequence.pages), page)
        sequence.pages.append(page)

"""Pages of the layers that see only a window of positions.

Each group of such layers has its own physical pages and page table. An open sequence holds the pages of its window and
of its next step; earlier pages are freed while it grows. So that a later request can continue from a point of a closed
or growing sequence, a snapshot holds the pages of the window before that point. Snapshots are dropped, the least
recently used one first, when a sequence needs their pages.

A page of known tokens (`prefix_cache.KnownPage`) is shared like that of the other layers: it is freed when its last
holder, a sequence or a snapshot, releases it.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..graph.cache_layout import LayerGroup
from ..graph.step import PageTable
from .prefix_cache import KnownPage


@dataclass
class Window:
    """What a sequence holds in one group: its logical pages first, first + 1, ... are the physical `pages`."""

    first: int = 0
    pages: deque[int] = field(default_factory=deque)

    @property
    def end(self) -> int:
        """One past the last logical page."""
        return self.first + len(self.pages)


@dataclass
class Snapshot:
    """Known pages whose window pages are held, consecutive ones of one text.

    begin: logical page of the first one. firsts: of each group, the first logical page that is held.
    """

    begin: int
    firsts: list[int]
    known: list[KnownPage]


class SequenceWindows(Protocol):
    """What this module needs of a sequence. known: its known pages, from the beginning of the text."""

    slot: int
    known: list[KnownPage]
    windows: list[Window]


class WindowPool:
    """The pages of one group.

    window: positions that a token sees. share: the most pages that a sequence holds.
    """

    def __init__(self, group: LayerGroup, page_size: int, table: PageTable):
        self.window = group.window
        self.share = group.pages_per_sequence
        self.num_pages = group.num_pages
        self.page_size = page_size
        self.table = table
        self.free = list(range(group.num_pages - 1, -1, -1))

    def first_seen(self, length: int) -> int:
        """The first logical page that a token at position `length` sees."""
        return max(0, length + 1 - self.window) // self.page_size


class Windows:
    """The pools of all groups with a window, and snapshots by their last page, the least recently used one first."""

    def __init__(self, groups: Sequence[LayerGroup], page_size: int, table_shape: tuple[int, int]):
        self.page_size = page_size
        self.pools = [WindowPool(group, page_size, PageTable(np.zeros(table_shape, np.int32))) for group in groups]
        self.snapshots: OrderedDict[KnownPage, Snapshot] = OrderedDict()
        self._open: dict[int, SequenceWindows] = {}  # sequences that share their pages, by slot

    # -- sequences

    def open(self, sequence: SequenceWindows, is_shared: bool) -> None:
        """Hold the window after the sequence's known pages, which `reach` must have confirmed."""
        if not self.pools:
            return
        if is_shared:
            self._open[sequence.slot] = sequence
        length = len(sequence.known) * self.page_size
        sequence.windows = [Window(pool.first_seen(length)) for pool in self.pools]
        for group, (pool, window) in enumerate(zip(self.pools, sequence.windows)):
            for known in sequence.known[window.first :]:
                page = known.window_pages[group]
                assert page is not None, "the window of the prefix is complete"
                known.holders[group] += 1
                self._append(sequence, pool, window, page)

    def slide(self, sequence: SequenceWindows, length: int) -> None:
        """Give the sequence pages for the tokens before `length`, and free pages that these tokens do not see.

        length: at most a step's tokens more than in the last call.
        """
        end = -(-length // self.page_size)
        for group, (pool, window) in enumerate(zip(self.pools, sequence.windows)):
            while end - window.first > pool.share:
                self._free_first(sequence, group)
            while window.end < end:
                while not pool.free:
                    self._drop_oldest()
                self._append(sequence, pool, window, pool.free.pop())

    def share(self, sequence: SequenceWindows, known: KnownPage) -> None:
        """Make the sequence's pages those of `known`, or use the ones that `known` has. `known` is the last of the
        sequence's known pages.
        """
        index = len(sequence.known) - 1
        for group, (pool, window) in enumerate(zip(self.pools, sequence.windows)):
            at = index - window.first
            if at < 0:  # freed within a step of several parts
                continue
            own, other = window.pages[at], known.window_pages[group]
            if other is None:
                known.window_pages[group] = own
            elif other != own:
                pool.free.append(own)
                window.pages[at] = other
                pool.table.set(sequence.slot, index, other)
            known.holders[group] += 1

    def truncate(self, sequence: SequenceWindows, length: int) -> None:
        """Free the pages after the tokens before `length`, which must not be known."""
        end = -(-length // self.page_size)
        for pool, window in zip(self.pools, sequence.windows):
            while window.pages and window.end > end:
                pool.free.append(window.pages.pop())
            window.first = min(window.first, end)

    def shortest(self, sequence: SequenceWindows) -> int:
        """The smallest length other than 0 to which the sequence can be truncated without losing what the next token
        sees.
        """
        return max(
            (
                window.first * self.page_size + pool.window - 1
                for pool, window in zip(self.pools, sequence.windows)
                if window.first
            ),
            default=0,
        )

    def close(self, sequence: SequenceWindows) -> None:
        """Release the sequence's pages, all of which are known."""
        self._open.pop(sequence.slot, None)
        for group, window in enumerate(sequence.windows):
            while window.pages:
                self._free_first(sequence, group)

    # -- points from which sequences can start

    def reach(self, path: Sequence[KnownPage], beyond: int = 0) -> int:
        """The number of pages of `path`, from the beginning of the text, after which a sequence can start: what the
        next token sees is held by one sequence or snapshot. 0 if that is not more than `beyond`.
        """
        if not self.pools:
            return len(path)
        best, user = beyond, None
        for last, begin, firsts, known in self._holders():
            end = min(len(path), begin + len(known))
            if end <= max(begin, best) or known[0] is not path[begin]:
                continue
            count = _num_common(path, known, begin, end)
            if count > best and self._is_complete(firsts, count):
                best, user = count, last
        if user is not None:
            self.touch(user)
        return best if best > beyond else 0

    def keep(self, sequence: SequenceWindows, end: KnownPage | None = None) -> None:
        """Make a snapshot of the window after the sequence's known pages, or after `end`, which follows them and gets
        the sequence's own pages.
        """
        if not self.pools:
            return
        firsts = [window.first for window in sequence.windows]
        begin = min(firsts)
        known = sequence.known[begin:]
        if end is None and (not known or not self._is_complete(firsts, len(sequence.known))):
            return
        if end is not None:
            known.append(end)
            for group, window in enumerate(sequence.windows):
                assert end.window_pages[group] is None, "this is a new page"
                end.window_pages[group] = window.pages.pop()
        snapshot = Snapshot(begin, firsts, known)
        self._hold(snapshot)
        self.forget(known[-1])
        self.snapshots[known[-1]] = snapshot

    def take(self, sequence: SequenceWindows, end: KnownPage) -> None:
        """Move the pages of `end` to the sequence, which writes on them. The snapshot after `end` becomes one after
        the page before.
        """
        if not self.pools:
            return
        snapshot = self.snapshots.pop(end)
        for group, (pool, window) in enumerate(zip(self.pools, sequence.windows)):
            page = end.window_pages[group]
            assert page is not None and end.holders[group] == 1, "only its snapshot holds the end of a text"
            end.window_pages[group], end.holders[group] = None, 0
            self._append(sequence, pool, window, page)
        snapshot.known.pop()
        count = snapshot.begin + len(snapshot.known)
        last = snapshot.known[-1] if snapshot.known else None
        if last is None or last in self.snapshots or not self._is_complete(snapshot.firsts, count):
            self._release(snapshot)
        else:
            self.snapshots[last] = snapshot

    def touch(self, last: KnownPage) -> None:
        """Make the snapshot after `last`, if there is one, the most recently used."""
        if last in self.snapshots:
            self.snapshots.move_to_end(last)

    def forget(self, last: KnownPage) -> None:
        """Drop the snapshot after `last`, if there is one."""
        snapshot = self.snapshots.pop(last, None)
        if snapshot is not None:
            self._release(snapshot)

    def forget_all(self) -> None:
        """Drop all snapshots."""
        while self.snapshots:
            self._drop_oldest()

    # -- holding pages

    def _holders(self) -> Iterable[tuple[KnownPage | None, int, list[int], list[KnownPage]]]:
        """(last page of a snapshot, first logical page, first page held in each group, known pages) of each holder."""
        for last, snapshot in self.snapshots.items():
            yield last, snapshot.begin, snapshot.firsts, snapshot.known
        for sequence in self._open.values():
            yield None, 0, [window.first for window in sequence.windows], sequence.known

    def _is_complete(self, firsts: list[int], count: int) -> bool:
        """Whether pages from `firsts` on hold all that the token after `count` pages sees."""
        length = count * self.page_size
        return all(first <= pool.first_seen(length) for pool, first in zip(self.pools, firsts))

    def _append(self, sequence: SequenceWindows, pool: WindowPool, window: Window, page: int) -> None:
        pool.table.set(sequence.slot, window.end, page)
        window.pages.append(page)

    def _free_first(self, sequence: SequenceWindows, group: int) -> None:
        window = sequence.windows[group]
        page = window.pages.popleft()
        if window.first < len(sequence.known):
            self._release_page(sequence.known[window.first], group)
        else:
            self.pools[group].free.append(page)
        window.first += 1

    def _hold(self, snapshot: Snapshot) -> None:
        for group, first in enumerate(snapshot.firsts):
            for known in snapshot.known[first - snapshot.begin :]:
                known.holders[group] += 1

    def _release(self, snapshot: Snapshot) -> None:
        for group, first in enumerate(snapshot.firsts):
            for known in snapshot.known[first - snapshot.begin :]:
                self._release_page(known, group)

    def _release_page(self, known: KnownPage, group: int) -> None:
        known.holders[group] -= 1
        if not known.holders[group]:
            page = known.window_pages[group]
            assert page is not None, "what is held has a page"
            self.pools[group].free.append(page)
            known.window_pages[group] = None

    def _drop_oldest(self) -> None:
        self._release(self.snapshots.popitem(last=False)[1])


def _num_common(path: Sequence[KnownPage], known: Sequence[KnownPage], begin: int, end: int) -> int:
    """The number of pages of `path` up to the last one, before `end`, that is also in `known`. The first page of
    `known` is page `begin` of `path`.
    """
    low, high = begin + 1, end
    while low < high:  # pages are equal up to where two texts differ
        middle = (low + high + 1) // 2
        if known[middle - 1 - begin] is path[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low

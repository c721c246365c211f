"""The prefix cache: pages with known contents, which sequences with the same beginning share.

In: pages and the tokens whose keys and values they hold. Out: the pages that hold the beginning of a list of tokens.
The pages form a tree. A page is found by its parent and its own tokens, in a dict of the parent's: Python compares the
tokens after their hashes, so a hash collision cannot return a wrong page. Pages that no sequence uses are kept until
`evict`, which drops the least recently used one.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from .prompt import Cell


@dataclass(eq=False)
class KnownPage:
    """A physical page with the keys and values of `tokens`, which follow those of its parents.

    A page with fewer tokens than fit is the end of some sequence; it has no children and no users.
    parent: None for the root only
    users: number of sequences that have it in their page tables; they also use its parents
    window_pages: the page of the same tokens in each group of layers with a window; None where it was freed
    holders: number of sequences and snapshots that hold each of the window_pages
    is_dropped: whether it has left the tree
    """

    page: int
    tokens: tuple[Cell, ...]
    parent: "KnownPage | None" = field(repr=False)
    users: int = 0
    children: dict[tuple[Cell, ...], "KnownPage"] = field(default_factory=dict, repr=False)
    window_pages: list[int | None] = field(default_factory=list)
    holders: list[int] = field(default_factory=list)
    is_dropped: bool = False


class Prefix:
    """The beginning of a text, of which any part may be taken from the cache.

    tokens: only grow as long as this object is in use
    length: the number of tokens that may be taken
    found: the pages of the last search, from which the next one continues
    """

    def __init__(self, tokens: Sequence[Cell] = (), length: int | None = None):
        self.tokens = tokens
        self.length = len(tokens) if length is None else length
        self.found: list[KnownPage] = []


def common_prefix(left: Sequence[Cell], right: Sequence[Cell]) -> int:
    """The number of equal tokens at the start of both."""
    return next(
        (index for index, (one, other) in enumerate(zip(left, right)) if one != other), min(len(left), len(right))
    )


class PrefixCache:
    """unused: the known pages that no sequence uses, in the order of their eviction.

    num_windows: number of groups of layers with a window
    """

    def __init__(self, page_size: int, num_windows: int = 0):
        self.page_size = page_size
        self.num_windows = num_windows
        self.root = KnownPage(-1, (), None)
        # A parent never enters before its children, so that the first one has no children.
        self.unused: OrderedDict[KnownPage, None] = OrderedDict()

    def find(self, prefix: Prefix) -> list[KnownPage]:
        """The full pages that hold the longest known beginning of the text, in order. Do not change the list."""
        found, size = prefix.found, self.page_size
        while found and found[-1].is_dropped:
            found.pop()
        place = found[-1] if found else self.root
        for first in range(len(found) * size, prefix.length - size + 1, size):
            place = place.children.get(tuple(prefix.tokens[first : first + size]))
            if place is None:
                break
            found.append(place)
        return found if len(found) * size <= prefix.length else found[: prefix.length // size]

    def take_end(self, parent: KnownPage, tokens: Sequence[Cell]) -> tuple[KnownPage | None, int]:
        """Take the unused childless page after `parent` that shares the most tokens with `tokens`, to write on it.

        Returns the page, which is not known any more, and the number of shared tokens. Returns (None, 0) if there is no
        such page, or if more tokens of another text would be lost than are gained.
        """
        ends = [
            child
            for child in parent.children.values()
            if not child.users and not child.children and None not in child.window_pages
        ]
        if not ends:
            return None, 0
        end = max(ends, key=lambda child: common_prefix(child.tokens, tokens))
        common = common_prefix(end.tokens, tokens)
        if common == 0 or common * 2 < len(end.tokens):
            return None, 0
        self._remove(end)
        return end, common

    def add(self, parent: KnownPage, tokens: tuple[Cell, ...], page: int) -> KnownPage:
        """Make `page` known as the page of these tokens after `parent`, unless there is one already.

        Returns the known page, which has no users if it is new.
        """
        known = parent.children.get(tokens)
        if known is None:
            known = parent.children[tokens] = KnownPage(
                page, tokens, parent, window_pages=[None] * self.num_windows, holders=[0] * self.num_windows
            )
            self.unused[known] = None
        return known

    def use(self, known: KnownPage) -> None:
        """Add a user."""
        known.users += 1
        self.unused.pop(known, None)

    def release(self, known: KnownPage) -> None:
        """Remove a user. A sequence releases its last page first."""
        known.users -= 1
        if not known.users:
            self.unused[known] = None

    def evict(self) -> KnownPage:
        """Drop the least recently used page and return it. There must be an unused one."""
        known = next(iter(self.unused))
        self._remove(known)
        return known

    def _remove(self, known: KnownPage) -> None:
        assert known.parent is not None and not known.children and not known.users, "only unused ends are dropped"
        del self.unused[known]
        del known.parent.children[known.tokens]
        known.is_dropped = True

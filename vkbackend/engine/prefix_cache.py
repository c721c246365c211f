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
    """

    page: int
    tokens: tuple[Cell, ...]
    parent: "KnownPage | None"
    users: int = 0
    children: dict[tuple[Cell, ...], "KnownPage"] = field(default_factory=dict)


def common_prefix(left: Sequence[Cell], right: Sequence[Cell]) -> int:
    """The number of equal tokens at the start of both."""
    return next(
        (index for index, (one, other) in enumerate(zip(left, right)) if one != other), min(len(left), len(right))
    )


class PrefixCache:
    """unused: the known pages that no sequence uses, in the order of their eviction."""

    def __init__(self, page_size: int):
        self.page_size = page_size
        self.root = KnownPage(-1, (), None)
        # A parent never enters before its children, so that the first one has no children.
        self.unused: OrderedDict[KnownPage, None] = OrderedDict()

    def find(self, tokens: Sequence[Cell]) -> list[KnownPage]:
        """The full pages that hold the longest known beginning of `tokens`, in order."""
        found = []
        place = self.root
        for first in range(0, len(tokens) - self.page_size + 1, self.page_size):
            place = place.children.get(tuple(tokens[first : first + self.page_size]))
            if place is None:
                break
            found.append(place)
        return found

    def take_end(self, parent: KnownPage, tokens: Sequence[Cell]) -> tuple[int, int] | None:
        """Take the unused childless page after `parent` that shares the most tokens with `tokens`, to write on it.

        Returns (page, number of shared tokens); the page is not known any more. Returns None if there is no such page,
        or if more tokens of another text would be lost than are gained.
        """
        ends = [child for child in parent.children.values() if not child.users and not child.children]
        if not ends:
            return None
        end = max(ends, key=lambda child: common_prefix(child.tokens, tokens))
        common = common_prefix(end.tokens, tokens)
        if common == 0 or common * 2 < len(end.tokens):
            return None
        self._remove(end)
        return end.page, common

    def add(self, parent: KnownPage, tokens: tuple[Cell, ...], page: int) -> KnownPage:
        """Make `page` known as the page of these tokens after `parent`, unless there is one already.

        Returns the known page, which has no users if it is new.
        """
        known = parent.children.get(tokens)
        if known is None:
            known = parent.children[tokens] = KnownPage(page, tokens, parent)
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

    def evict(self) -> int:
        """Drop the least recently used page and return its number. There must be an unused one."""
        known = next(iter(self.unused))
        self._remove(known)
        return known.page

    def _remove(self, known: KnownPage) -> None:
        assert known.parent is not None and not known.children and not known.users, "only unused ends are dropped"
        del self.unused[known]
        del known.parent.children[known.tokens]

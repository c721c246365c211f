"""Pages whose contents are known: a sequence that begins with the same tokens may use them instead of computing them
again.

In: pages and the tokens whose keys and values they hold. Out: the pages that hold the beginning of a list of tokens.
The pages form a tree. A page's place in it is its parent and its own tokens, looked up in a dict of the parent's:
Python hashes the tokens and then compares them, so a collision of hashes cannot give a wrong page. What no sequence
uses is kept, least recently used first, until `evict` is asked for a page.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class KnownPage:
    """A physical page with the keys and values of `tokens`, which follow those of its parents.

    A page with fewer tokens than fit is where some sequence ended; it has no children and no users.
    users: sequences whose page tables hold it. Who uses a page uses its parents, too.
    """

    page: int
    tokens: tuple[int, ...]
    parent: "KnownPage | None"
    users: int = 0
    children: dict[tuple[int, ...], "KnownPage"] = field(default_factory=dict)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens at the start of both are equal."""
    return next(
        (index for index, (one, other) in enumerate(zip(left, right)) if one != other), min(len(left), len(right))
    )


class PrefixCache:
    """`unused` are the known pages that no sequence uses, the first one to be evicted first."""

    def __init__(self, page_size: int):
        self.page_size = page_size
        self.root = KnownPage(-1, (), None)
        # Pages enter it deepest first, and a parent never before its children, so that the first one has no children.
        self.unused: OrderedDict[KnownPage, None] = OrderedDict()

    def find(self, tokens: Sequence[int]) -> list[KnownPage]:
        """The full pages that hold the beginning of `tokens`, in order."""
        found, place = [], self.root
        for first in range(0, len(tokens) - self.page_size + 1, self.page_size):
            place = place.children.get(tuple(tokens[first : first + self.page_size]))
            if place is None:
                break
            found.append(place)
        return found

    def take_end(self, parent: KnownPage, tokens: Sequence[int]) -> tuple[int, int] | None:
        """(page, how many of `tokens` it begins with): a page after `parent` that nobody uses and nothing follows,
        to be written on.

        It is known no longer. None where there is none, or where more tokens of another text would be lost than are
        gained.
        """
        ends = [child for child in parent.children.values() if not child.users and not child.children]
        common, end = max(
            ((common_prefix(child.tokens, tokens), child) for child in ends),
            key=lambda pair: pair[0],
            default=(0, None),
        )
        if common == 0 or common * 2 < len(end.tokens):
            return None
        self._remove(end)
        return end.page, common

    def add(self, parent: KnownPage, tokens: tuple[int, ...], page: int) -> KnownPage:
        """What holds these tokens after `parent` from now on: `page`, or the page that already does. Without users
        at first.
        """
        known = parent.children.get(tokens)
        if known is None:
            known = parent.children[tokens] = KnownPage(page, tokens, parent)
            self.unused[known] = None
        return known

    def use(self, known: KnownPage) -> None:
        known.users += 1
        self.unused.pop(known, None)

    def release(self, known: KnownPage) -> None:
        """One user less. Of a sequence's pages, the last one is released first."""
        known.users -= 1
        if not known.users:
            self.unused[known] = None

    def evict(self) -> int:
        """Forget the page that was used the longest ago; its number. There must be an unused one."""
        known = next(iter(self.unused))
        self._remove(known)
        return known.page

    def _remove(self, known: KnownPage) -> None:
        assert not known.children and not known.users, "only ends that nobody uses are forgotten"
        del self.unused[known]
        del known.parent.children[known.tokens]

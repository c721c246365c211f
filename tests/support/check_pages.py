"""What must hold of a page cache between any two steps, whoever uses it."""


def check_pages(cache, sequences):
    """Every page is free, known and unused, or in use, once; users are counted right; the page table says what the
    sequences say.
    """
    used = {page for sequence in sequences for page in sequence.pages}
    unused = [known.page for known in cache.prefixes.unused]
    assert sorted([*cache.free_pages, *unused, *used]) == list(range(cache.num_pages))
    assert cache.num_available == len(cache.free_pages) + len(unused)
    holders = {}
    for sequence in sequences:
        assert len(sequence.pages) == -(-sequence.length // cache.page_size)
        assert list(cache.table[sequence.slot, : len(sequence.pages)]) == sequence.pages
        assert [known.page for known in sequence.known] == sequence.pages[: len(sequence.known)]
        assert len(sequence.known) == (sequence.length // cache.page_size if sequence.is_shared else 0)
        for known in sequence.known:
            holders[known] = holders.get(known, 0) + 1
        for page in sequence.pages[len(sequence.known) :]:
            assert sum(page in other.pages for other in sequences) == 1, "a page that is written to has one holder"
    assert len(cache.free_slots) + len(sequences) == len(cache.table)
    reached, stack = [], list(cache.prefixes.root.children.values())
    while stack:
        known = stack.pop()
        reached.append(known)
        stack.extend(known.children.values())
        assert known.users == holders.get(known, 0)
        assert known.parent.users >= known.users or known.parent is cache.prefixes.root
        assert (known in cache.prefixes.unused) == (known.users == 0)
        assert known.parent.children[known.tokens] is known
    assert len(reached) == len(unused) + len(holders)
    order = list(cache.prefixes.unused)
    assert all(order.index(child) < order.index(known) for known in order for child in known.children.values())

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
        assert list(cache.tables[0].rows[sequence.slot, : len(sequence.pages)]) == sequence.pages
        assert [known.page for known in sequence.known] == sequence.pages[: len(sequence.known)]
        assert len(sequence.known) == (sequence.length // cache.page_size if sequence.is_shared else 0)
        for known in sequence.known:
            holders[known] = holders.get(known, 0) + 1
        for page in sequence.pages[len(sequence.known) :]:
            assert sum(page in other.pages for other in sequences) == 1, "a page that is written to has one holder"
    assert len(cache.free_slots) + len(sequences) == cache.max_sequences
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
    for group, pool in enumerate(cache.windows.pools):
        check_window_pages(cache, sequences, group, pool, reached)
    order = list(cache.prefixes.unused)
    assert all(order.index(child) < order.index(known) for known in order for child in known.children.values())


def check_window_pages(cache, sequences, group, pool, reached):
    """The same for the pages of a group of layers with a window; what the next token of a sequence sees is there."""
    holders = {known: 0 for known in reached}
    own = []
    for sequence in sequences:
        window = sequence.windows[group]
        assert window.end == -(-sequence.length // cache.page_size)
        assert len(window.pages) <= pool.share and (window.first <= pool.first_seen(sequence.length))
        assert list(pool.table.rows[sequence.slot, window.first : window.end]) == list(window.pages)
        for index, page in enumerate(window.pages, window.first):
            if index < len(sequence.known):
                assert sequence.known[index].window_pages[group] == page
                holders[sequence.known[index]] += 1
            else:
                own.append(page)
    for last, snapshot in cache.windows.snapshots.items():
        assert snapshot.known[-1] is last
        for known in snapshot.known[snapshot.firsts[group] - snapshot.begin :]:
            holders[known] += 1
    assert holders == {known: known.holders[group] for known in reached}
    held = [known.window_pages[group] for known in reached if known.window_pages[group] is not None]
    assert len(held) == sum(number > 0 for number in holders.values())
    assert sorted([*pool.free, *held, *own]) == list(range(pool.num_pages))

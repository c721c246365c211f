"""Greedy pair merging, shared by byte-level BPE and SentencePiece.

In: the symbols of a text and the rank of every pair that may merge. Out: the symbols left when no pair may merge any more.
"""

from heapq import heapify, heappop, heappush


def merge_pairs(symbols: list[str], ranks: dict[str, int], joiner: str) -> list[str]:
    """Merge the neighbours of the lowest rank, the leftmost first, until no two neighbours have a rank.

    A pair is looked up as `left + joiner + right`. Takes O(n log n) whatever the text; `symbols` is used up.
    """
    count = len(symbols)
    following, preceding = list(range(1, count + 1)), list(range(-1, count - 1))
    rank_of = ranks.get
    # An entry is one number, rank * count + left: smallest is the lowest rank, then the leftmost.
    heap = []
    for left in range(count - 1):
        rank = rank_of(symbols[left] + joiner + symbols[left + 1])
        if rank is not None:
            heap.append(rank * count + left)
    heapify(heap)
    while heap:
        rank, left = divmod(heappop(heap), count)
        right = following[left]
        # Merging changes pairs without removing their old entries: one is still true if the pair at `left` has its rank now.
        # A symbol that was merged into its left neighbour is empty, and no pair with an empty half has a rank.
        if right == count or not symbols[left]:
            continue
        merged = symbols[left] + joiner + symbols[right]
        if rank_of(merged) != rank:
            continue
        merged = symbols[left] = symbols[left] + symbols[right]
        symbols[right] = ""
        after, before = following[right], preceding[left]
        following[left] = after
        if after < count:
            preceding[after] = left
            rank = rank_of(merged + joiner + symbols[after])
            if rank is not None:
                heappush(heap, rank * count + left)
        if before >= 0:
            rank = rank_of(symbols[before] + joiner + merged)
            if rank is not None:
                heappush(heap, rank * count + before)
    return [symbol for symbol in symbols if symbol]

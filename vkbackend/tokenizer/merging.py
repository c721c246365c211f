"""Greedy pair merging, shared by byte-level BPE and SentencePiece.

In: the symbols of a text, and the rank of every pair that can merge. Out: the symbols left when no pair can merge.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush


def merge_pairs(symbols: list[str], rank_of: Callable[[str], int | None], joiner: str) -> list[str]:
    """Merge the neighbours with the lowest rank, the leftmost first, until no two neighbours have a rank.

    rank_of: the rank of the pair `left + joiner + right`, None if it cannot merge. Takes O(n log n) for any text.
    Modifies `symbols`.
    """
    count = len(symbols)
    following = list(range(1, count + 1))
    preceding = list(range(-1, count - 1))
    # ranks[n]: rank of the pair that begins at symbol n; None for the last symbol and for one that was merged into its
    # left neighbour.
    ranks = [rank_of(left + joiner + right) for left, right in zip(symbols, symbols[1:])] + [None]
    # An entry is the number rank * count + left, so the smallest is the leftmost pair of the lowest rank.
    heap = [rank * count + left for left, rank in enumerate(ranks) if rank is not None]
    heapify(heap)
    while heap:
        rank, left = divmod(heappop(heap), count)
        if ranks[left] != rank:  # outdated: one half of the pair has been merged since
            continue
        right = following[left]
        merged = symbols[left] = symbols[left] + symbols[right]
        symbols[right] = ""
        ranks[right] = None
        after, before = following[right], preceding[left]
        following[left] = after
        rank = None
        if after < count:
            preceding[after] = left
            rank = rank_of(merged + joiner + symbols[after])
            if rank is not None:
                heappush(heap, rank * count + left)
        ranks[left] = rank
        if before >= 0:
            rank = ranks[before] = rank_of(symbols[before] + joiner + merged)
            if rank is not None:
                heappush(heap, rank * count + before)
    return [symbol for symbol in symbols if symbol]

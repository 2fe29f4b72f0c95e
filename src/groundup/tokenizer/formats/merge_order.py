"""Merges inferred from a vocabulary of which only the ranks are known, and their effect on bytes.

tiktoken's files have no merges: any two neighbours merge whose bytes together are a token, the lowest rank first. Yet
for each token there is one pair that it is made from. Merging only its own bytes ends, just before the token, in two
parts; and wherever the token appears in a text, its bytes merged in the same way, because no token that crosses their
edge was made before. So the pairs found token by token, in order of rank, are merges that give the same ids.
"""

import heapq
from collections.abc import Callable, Mapping

Pair = tuple[bytes, bytes]
RankOf = Callable[[bytes, bytes], int | None]
"""The rank of a pair of neighbours, lower ones merging first; None for a pair that does not merge."""

_LONGEST_FOR_SCANNING = 48  # bytes; as in the C++ core, a heap is faster above


def merges_of_ranks(ranks: Mapping[bytes, int]) -> tuple[list[Pair], list[tuple[bytes, list[bytes]]]]:
    """The merges, in order, that give tiktoken's ids, from the rank of each token.

    Returns:
        merges: for each token of more than one byte the pair it is made from, in order of rank.
        unreached: tokens that merging never makes, which tiktoken finds only as whole pretokens; each with the parts
            that its bytes end in.
    """

    def rank_of(left: bytes, right: bytes) -> int | None:
        return ranks.get(left + right)

    merges: list[Pair] = []
    unreached: list[tuple[bytes, list[bytes]]] = []
    for token in sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__):
        parts = merged(token, rank_of, stop_at=2)
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
        else:
            unreached.append((token, parts))
    return merges, unreached


def merged(data: bytes, rank_of: RankOf, *, stop_at: int = 1) -> list[bytes]:
    """The parts of a stretch of bytes when no pair is left to merge, or when there are only `stop_at` parts."""
    merge = _merged_by_scanning if len(data) <= _LONGEST_FOR_SCANNING else _merged_by_heap
    return merge([data[i : i + 1] for i in range(len(data))], rank_of, stop_at)


def _merged_by_scanning(parts: list[bytes], rank_of: RankOf, stop_at: int) -> list[bytes]:
    ranks = list(map(rank_of, parts, parts[1:]))
    while len(parts) > stop_at:
        lowest, at = None, -1
        for i, rank in enumerate(ranks):
            if rank is not None and (lowest is None or rank < lowest):
                lowest, at = rank, i
        if lowest is None:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del ranks[at]
        if at > 0:
            ranks[at - 1] = rank_of(parts[at - 1], parts[at])
        if at < len(ranks):
            ranks[at] = rank_of(parts[at], parts[at + 1])
    return parts


def _merged_by_heap(parts: list[bytes], rank_of: RankOf, stop_at: int) -> list[bytes]:
    end = len(parts)
    following = list(range(1, end + 1))
    preceding = list(range(-1, end - 1))
    left_count = end
    heap: list[tuple[int, int, bytes, bytes]] = []

    def push(i: int) -> None:
        j = following[i]
        if j < end and (rank := rank_of(parts[i], parts[j])) is not None:
            heapq.heappush(heap, (rank, i, parts[i], parts[j]))

    for i in range(end):
        push(i)
    while heap and left_count > stop_at:
        _, i, left, right = heapq.heappop(heap)
        j = following[i]
        if parts[i] != left or j >= end or parts[j] != right:
            continue  # one of the two has merged since; a merged-away part is empty, and parts are not
        parts[i], parts[j] = left + right, b""
        following[i] = following[j]
        if following[i] < end:
            preceding[following[i]] = i
        left_count -= 1
        push(i)
        if preceding[i] >= 0:
            push(preceding[i])
    return [part for part in parts if part]

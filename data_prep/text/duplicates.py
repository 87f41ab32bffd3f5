"""Which documents repeat an earlier one, found by sorting: no index of all documents is held in memory.

In each band, documents with the same band hash form a bucket. The first document of a bucket, in corpus order, is
compared with all others, the first of those that are unlike it with the rest of them, and so on. Documents that are
similar enough are joined, over all bands. Of each joined group, the first document in corpus order stays, and all
others are its duplicates.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_prep.text.minhash import Signatures
from data_prep.text.words import Hashes, Places

# How many documents of a bucket are compared with all later ones. Only documents that share a band but not their
# text, such as filled-in forms, need more; the bound keeps the work linear.
REPRESENTATIVES = 64

# Pairs of signatures that are compared at once: 2 x 16 MB with 128 permutations.
_PAIRS = 1 << 15


def duplicate_groups(bands: Iterable[Hashes], signatures: Signatures, threshold: float) -> tuple[Places, int]:
    """Finds the duplicates among D documents.

    Args:
        bands: the columns of :func:`~data_prep.text.minhash.band_hashes`, each (D,). One at a time is in memory,
            with about 50 bytes a document.
        signatures: (D, permutations); may be a memory-mapped file, of which only candidates are read.
        threshold: documents of at least this estimated similarity are duplicates.

    Returns:
        (D,) the index of the document that each one repeats, or -1 if it stays; and the number of comparisons.
    """
    first = np.arange(len(signatures))
    comparisons = 0
    for hashes in bands:
        comparisons += _join_similar(hashes, first, signatures, threshold)
    return np.where(first == np.arange(len(first)), -1, first), comparisons


def _join_similar(hashes: Hashes, first: Places, signatures: Signatures, threshold: float) -> int:
    """Joins the similar documents of each bucket of one band in ``first``; returns the number of comparisons."""
    members, buckets = _buckets(hashes)
    joins: list[tuple[Places, Places]] = []
    comparisons = 0
    for _ in range(REPRESENTATIVES):
        if not len(members):
            break
        # Members are sorted by bucket, then by index: the first of each bucket represents it in this round.
        is_head = np.diff(buckets, prepend=-1) > 0
        heads = members[is_head][np.cumsum(is_head) - 1]
        joined = first[heads] == first[members]
        todo = np.flatnonzero(~joined)
        comparisons += len(todo)
        similar = todo[_similar(signatures, heads[todo], members[todo], threshold)]
        joins.append((heads[similar], members[similar]))
        joined[similar] = True
        members, buckets = members[~joined], buckets[~joined]
    _join(first, joins)
    return comparisons


def _buckets(hashes: Hashes) -> tuple[Places, Places]:
    """The documents that share their hash with another, sorted by (hash, index), and the numbers of their buckets."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    new = np.ones(len(hashes) + 1, bool)
    new[1:-1] = ordered[1:] != ordered[:-1]
    shared = ~(new[:-1] & new[1:])
    return order[shared], np.cumsum(new[:-1])[shared]


def _similar(signatures: Signatures, left: Places, right: Places, threshold: float) -> NDArray[np.bool_]:
    enough = threshold * signatures.shape[1]
    result = np.zeros(len(left), bool)
    for start in range(0, len(left), _PAIRS):
        chosen = slice(start, start + _PAIRS)
        agree = signatures[left[chosen]] == signatures[right[chosen]]
        result[chosen] = np.count_nonzero(agree, axis=1) >= enough
    return result


def _join(first: Places, joins: list[tuple[Places, Places]]) -> None:
    """Makes ``first`` hold the smallest index of each document's group, now that some pairs have been joined."""
    left = first[np.concatenate([a for a, _ in joins])] if joins else first[:0]
    if not len(left):
        return
    right = first[np.concatenate([b for _, b in joins])]
    # Only the groups that are joined are nodes of the graph: it is small, however many documents there are.
    nodes, ends = np.unique(np.concatenate([left, right]), return_inverse=True)
    graph = coo_array((np.ones(len(left), bool), (ends[: len(left)], ends[len(left) :])), (len(nodes), len(nodes)))
    _, group = connected_components(graph, directed=False)
    smallest = np.full(group.max() + 1, len(first))
    np.minimum.at(smallest, group, nodes)
    renamed = np.isin(first, nodes)
    first[renamed] = smallest[group[np.searchsorted(nodes, first[renamed])]]

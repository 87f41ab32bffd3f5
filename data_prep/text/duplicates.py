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
        bands: the columns of :func:`~data_prep.text.minhash.band_hashes`, each (D,), of which one is in memory.
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
    order = np.argsort(hashes, kind="stable")
    starts = np.diff(hashes[order], prepend=~hashes[order[:1]]) != 0  # (D,) whether a bucket starts here
    shared = ~(starts & np.append(starts[1:], True))
    # The documents that share their hash with another, sorted by bucket and index, and the numbers of their buckets.
    members, buckets = order[shared], np.cumsum(starts)[shared]
    joins = [np.zeros((2, 0), np.int64)]
    comparisons = 0
    for _ in range(REPRESENTATIVES):
        # The first of each bucket represents it in this round.
        is_head = np.diff(buckets, prepend=-1) > 0
        pairs = np.stack([members[is_head][np.cumsum(is_head) - 1], members])
        joined = first[pairs[0]] == first[pairs[1]]
        todo = np.flatnonzero(~joined)
        comparisons += len(todo)
        similar = todo[_similar(signatures, pairs[0, todo], pairs[1, todo], threshold)]
        joins.append(pairs[:, similar])
        joined[similar] = True
        members, buckets = members[~joined], buckets[~joined]
    _join(first, np.concatenate(joins, axis=1))
    return comparisons


def _similar(signatures: Signatures, left: Places, right: Places, threshold: float) -> NDArray[np.bool_]:
    enough = threshold * signatures.shape[1]
    result = np.zeros(len(left), bool)
    for start in range(0, len(left), _PAIRS):
        chosen = slice(start, start + _PAIRS)
        agree = signatures[left[chosen]] == signatures[right[chosen]]
        result[chosen] = np.count_nonzero(agree, axis=1) >= enough
    return result


def _join(first: Places, pairs: Places) -> None:
    """Makes ``first`` hold the smallest index of each document's group, now that (2, J) documents have been joined."""
    if not pairs.size:
        return
    # Only the groups that are joined are nodes of the graph: it is small, however many documents there are.
    nodes, ends = np.unique(first[pairs], return_inverse=True)
    graph = coo_array((np.ones(pairs.shape[1], bool), ends.reshape(2, -1)), (len(nodes), len(nodes)))
    _, group = connected_components(graph, directed=False)
    smallest = nodes[np.unique(group, return_index=True)[1]]
    renamed = np.isin(first, nodes)
    first[renamed] = smallest[group[np.searchsorted(nodes, first[renamed])]]

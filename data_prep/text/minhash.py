"""Near duplicates by MinHash (Broder 1997): the similarity of two long texts, estimated from 128 numbers each.

The similarity of two texts is the Jaccard index of their sets of shingles, runs of five words. Two signatures agree
in any one place with that probability. Documents are only compared if they agree in all rows of at least one band of
their signatures (Leskovec et al., Mining of Massive Datasets, sec. 3.4).

In each band, documents with the same band hash form a bucket, found by sorting, so no index of all documents is held
in memory. The first document of a bucket, in corpus order, is compared with all others, the first of those that are
unlike it with the rest of them, and so on. Documents that are similar enough are joined, over all bands. Of each
joined group, the first document in corpus order stays, and all others are its duplicates.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_prep.text.words import Hashes, Places, code_points, mix, ngram_hashes, words
from linformer_fairseq.ranges import Checked, Range

Signatures = NDArray[np.uint32]

# How many documents of a bucket are compared with all later ones. Only documents that share a band but not their
# text, such as filled-in forms, need more; the bound keeps the work linear.
REPRESENTATIVES = 64
_PAIRS = 1 << 15  # of signatures, compared at once: 2 x 16 MB with 128 permutations
_SHINGLES = 512  # hashed at once, so that their (shingles, permutations) array stays in the processor's cache


@dataclass
class NearDuplicates(Checked):
    """What counts as a near duplicate; threshold and shingle are those of Lee et al. 2022."""

    # Documents of at least this estimated Jaccard similarity are duplicates.
    threshold: float = field(default=0.8, metadata={"range": Range(0.01, 1)})
    # Words in a shingle; characters in scripts without spaces.
    shingle: int = field(default=5, metadata={"range": Range(1, 1000)})
    # Numbers in a signature; the estimate's standard error is at most 0.5 / sqrt(permutations).
    permutations: int = field(default=128, metadata={"range": Range(8, 65_536)})
    # How much worse a missed pair is than a needless comparison, from 0 to 1, when bands and rows are chosen.
    # Comparisons are cheap, since each candidate pair is verified against the signatures.
    missed: float = field(default=0.95, metadata={"range": Range(0, 1)})

    def bands_and_rows(self) -> tuple[int, int]:
        """Number of bands and rows of each, as datasketch finds best for the threshold."""
        from datasketch import MinHashLSH  # with scipy, half a second of every start that needs neither

        index = MinHashLSH(self.threshold, self.permutations, weights=(1 - self.missed, self.missed))
        return index.b, index.r


def signatures(texts: Sequence[str], config: NearDuplicates) -> Signatures:
    """MinHash signatures of texts, (documents, permutations) uint32, each depending on its text alone."""
    from datasketch import MinHash

    # datasketch hashes one shingle at a time; handed an array of finished hashes as one "shingle", it works
    # through all of them at once.
    empty = MinHash(config.permutations, scheme="affine32", hashfunc=lambda hashes: hashes)
    result = np.empty((len(texts), config.permutations), np.uint32)
    for row, text in zip(result, texts, strict=True):
        minhash = empty.copy()
        hashes = words(text).hashes
        if len(hashes) == 0:  # nothing but punctuation: equal to the same punctuation only
            hashes = mix(code_points(text).astype(np.uint64))
        shingles = (ngram_hashes(hashes, min(config.shingle, len(hashes))) >> np.uint64(32)).astype(np.uint32)
        for start in range(0, len(shingles), _SHINGLES):
            minhash.update_batch([shingles[start : start + _SHINGLES]])
        row[:] = minhash.hashvalues
    return result


def band_hashes(band: Signatures) -> Hashes:
    """Hashes of one band of the signatures, (documents, rows); equal where all rows are equal."""
    hashes = np.zeros(len(band), np.uint64)
    for row in band.T.astype(np.uint64):
        hashes = mix(hashes * np.uint64(0x9E3779B97F4A7C15) + row)
    return hashes


def duplicate_groups(bands: Iterable[Hashes], signatures: Signatures, threshold: float) -> tuple[Places, int]:
    """The index of the document that each of D documents repeats, (D,), or -1; and the number of comparisons.

    ``bands`` are the :func:`band_hashes` of each band, (D,), of which one is in memory at a time. ``signatures``,
    (D, permutations), may be a memory-mapped file, of which only candidates are read.
    """
    first = np.arange(len(signatures))
    comparisons = sum(_join_similar(hashes, first, signatures, threshold) for hashes in bands)
    return np.where(first == np.arange(len(first)), -1, first), comparisons


def _join_similar(hashes: Hashes, first: Places, signatures: Signatures, threshold: float) -> int:
    """Join the similar documents of each bucket of one band in ``first``; returns the number of comparisons."""
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
    """Make ``first`` hold the smallest index of each document's group, now that (2, J) documents have been joined."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not pairs.size:
        return
    # Only the groups that are joined are nodes of the graph: it is small, however many documents there are.
    nodes, ends = np.unique(first[pairs], return_inverse=True)
    graph = coo_array((np.ones(pairs.shape[1], bool), ends.reshape(2, -1)), (len(nodes), len(nodes)))
    _, group = connected_components(graph, directed=False)
    smallest = nodes[np.unique(group, return_index=True)[1]]
    renamed = np.isin(first, nodes)
    first[renamed] = smallest[group[np.searchsorted(nodes, first[renamed])]]

"""Near duplicates by MinHash (Broder 1997): the similarity of two long texts, estimated from 128 numbers each.

The similarity of two texts is the Jaccard index of their sets of shingles, runs of five words. Two signatures agree
in any one place with that probability. Documents are only compared if they agree in all rows of at least one band of
their signatures (Leskovec et al., Mining of Massive Datasets, sec. 3.4).

In each band, documents with the same band hash form a bucket, found by sorting, so no index of all documents is held
in memory. The first document of a bucket, in corpus order, is compared with all others, the first of those that are
unlike it with the rest of them, and so on. Those that are similar enough are dropped beside it. If that first document
is itself dropped in another band, those beside it are compared with the one that stays; if they are unlike it, they are
looked at again. So each dropped document is like one that is kept, and the ends of a chain of revisions stay.

A page can be mostly boilerplate and have a text of its own: a long run of words that the other lacks (`own_run`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_prep.text.scripts import code_points
from data_prep.text.words import Hashes, Places, mix, ngram_hashes, words
from linformer_fairseq.ranges import Checked, Range

Signatures = NDArray[np.uint32]

# How many documents of a bucket are compared with all later ones. Only documents that share a band but not their
# text, such as filled-in forms, need more; the bound keeps the work linear.
REPRESENTATIVES = 64
PASSES = 8  # over documents whose likeness is not that of the one which stays; what is left after them stays
OWN_TEXTS = 4  # like documents beside which a document has a text of its own; after so many it is no longer compared
SAMPLED = 4  # one of so many shingles is kept with its place, for `own_words`
_HASH = np.uint64(0xFFFFFFFF00000000)
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
    own_words: int = 100  # a document with so long a run of words that the other lacks is no duplicate; 0: no rule
    repeated_paragraphs: int = 0  # a paragraph in more documents than this is removed from all; 0: none is

    def bands_and_rows(self) -> tuple[int, int]:
        """Number of bands and rows of each, as datasketch finds best for the threshold."""
        from datasketch import MinHashLSH  # with scipy, half a second of every start that needs neither

        index = MinHashLSH(self.threshold, self.permutations, weights=(1 - self.missed, self.missed))
        return index.b, index.r


def signatures(texts: Sequence[str], config: NearDuplicates) -> Signatures:
    """MinHash signatures of texts, (documents, permutations) uint32, each depending on its text alone."""
    return sketches(texts, config)[0]


def sketches(texts: Sequence[str], config: NearDuplicates) -> tuple[Signatures, list[Hashes]]:
    """The signatures of texts, and some shingles of each, in order: the hash above, the place in the lower half."""
    from datasketch import MinHash

    # datasketch hashes one shingle at a time; handed an array of finished hashes as one "shingle", it works
    # through all of them at once.
    empty = MinHash(config.permutations, scheme="affine32", hashfunc=lambda hashes: hashes)
    result = np.empty((len(texts), config.permutations), np.uint32)
    samples = []
    for row, text in zip(result, texts, strict=True):
        minhash = empty.copy()
        hashes = words(text).hashes
        if len(hashes) == 0:  # nothing but punctuation: equal to the same punctuation only
            hashes = mix(code_points(text).astype(np.uint64))
        full = ngram_hashes(hashes, min(config.shingle, len(hashes)))
        shingles = (full >> np.uint64(32)).astype(np.uint32)
        for start in range(0, len(shingles), _SHINGLES):
            minhash.update_batch([shingles[start : start + _SHINGLES]])
        row[:] = minhash.hashvalues
        places = np.flatnonzero(full % np.uint64(SAMPLED) == 0)
        samples.append((full[places] & _HASH) | places.astype(np.uint64))
    return result, samples


def own_run(sample: Hashes, other: Hashes) -> int:
    """Words in the longest run of a document's shingles that another lacks, from the samples of both."""
    places = (sample & ~_HASH).astype(np.int64)
    shared = np.flatnonzero(np.isin(sample & _HASH, other & _HASH))
    starts, ends = np.append(0, shared + 1), np.append(shared, len(sample)) - 1
    runs = ends >= starts
    return int(np.max(places[ends[runs]] - places[starts[runs]], initial=-SAMPLED)) + SAMPLED


def band_hashes(band: Signatures) -> Hashes:
    """Hashes of one band of the signatures, (documents, rows); equal where all rows are equal."""
    hashes = np.zeros(len(band), np.uint64)
    for row in band.T.astype(np.uint64):
        hashes = mix(hashes * np.uint64(0x9E3779B97F4A7C15) + row)
    return hashes


def duplicate_groups(
    bands: Iterable[Hashes],
    signatures: Signatures,
    threshold: float,
    exact: Hashes | None = None,
    own_text: Callable[[int, int], bool] = lambda document, other: False,
) -> tuple[Places, int]:
    """The index of the kept document that each of D documents repeats, (D,), or -1; and the number of comparisons.

    ``bands`` are the :func:`band_hashes` of each band, (D,), of which one is in memory at a time; it is iterated over
    more than once. ``signatures``, (D, permutations), may be a memory-mapped file, of which only candidates are read.
    ``exact`` are hashes of the texts, (D,); ``own_text`` tells whether a document has a text of its own beside another.
    """
    everything = np.arange(len(signatures))
    first = everything.copy()  # the document itself, or the one that it repeats
    if exact is not None:
        _, index, inverse = np.unique(exact, return_index=True, return_inverse=True)
        first = index[inverse]
    search = _Search(signatures, threshold, own_text, first, np.zeros(len(first), np.int64))
    wanted = np.ones(len(first), bool)
    for _ in range(PASSES):
        for hashes in bands:
            search.drop_in(hashes, wanted)
        lost = np.flatnonzero(first[first] != first)  # beside a document that is dropped itself
        kept = first
        while (kept[kept] != kept).any():
            kept = kept[kept]
        still = search.similar(kept[lost], lost)
        first[lost] = np.where(still, kept[lost], lost)
        wanted = np.zeros(len(first), bool)
        wanted[lost[~still]] = True
        if still.all():
            break
    return np.where(first == everything, -1, first), search.comparisons


@dataclass
class _Search:
    """The state of a search; ``first`` is changed in place."""

    signatures: Signatures
    threshold: float
    own_text: Callable[[int, int], bool]
    first: Places
    own_texts: Places  # how often each document had a text of its own
    comparisons: int = 0

    def drop_in(self, hashes: Hashes, wanted: NDArray[np.bool_]) -> None:
        """Drop what is like an earlier document in a bucket of one band that has one of the ``wanted``."""
        alive = np.flatnonzero(self.first == np.arange(len(self.first)))
        order = alive[np.argsort(hashes[alive], kind="stable")]
        starts = np.diff(hashes[order], prepend=~hashes[order[:1]]) != 0  # whether a bucket starts here
        shared = ~(starts & np.append(starts[1:], True))
        # The documents that share their hash with another, sorted by bucket and index, and their buckets' numbers.
        members, buckets = order[shared], np.cumsum(starts)[shared]
        chosen = np.isin(buckets, buckets[wanted[members]])
        members, buckets = members[chosen], buckets[chosen]
        for _ in range(REPRESENTATIVES):
            if not len(members):
                return
            # The first of each bucket represents it in this round.
            is_head = np.diff(buckets, prepend=-1) > 0
            heads = members[is_head][np.cumsum(is_head) - 1]
            similar = np.zeros(len(members), bool)
            similar[~is_head] = self.similar(heads[~is_head], members[~is_head])
            self.first[members[similar]] = heads[similar]
            left = ~(is_head | similar | (self.own_texts[members] >= OWN_TEXTS))
            members, buckets = members[left], buckets[left]

    def similar(self, left: Places, right: Places) -> NDArray[np.bool_]:
        """Whether each document of ``right`` repeats that of ``left``."""
        enough = self.threshold * self.signatures.shape[1]
        result = np.zeros(len(left), bool)
        self.comparisons += len(left)
        for start in range(0, len(left), _PAIRS):
            chosen = slice(start, start + _PAIRS)
            agree = self.signatures[left[chosen]] == self.signatures[right[chosen]]
            result[chosen] = np.count_nonzero(agree, axis=1) >= enough
        for place in np.flatnonzero(result).tolist():
            if self.own_text(int(right[place]), int(left[place])):
                result[place] = False
                self.own_texts[right[place]] += 1
        return result

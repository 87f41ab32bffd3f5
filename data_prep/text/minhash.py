"""Near duplicates by MinHash (Broder 1997): the similarity of two long texts, estimated from 128 numbers each.

The similarity of two texts is the Jaccard index of their sets of shingles, runs of five words. Two signatures agree
in any one place with that probability. Documents are only compared if they agree in all rows of at least one band of
their signatures (Leskovec et al., Mining of Massive Datasets, sec. 3.4).

In each band, documents with the same band hash form a bucket, found by sorting, so no index of all is held in memory.
Its first document, in corpus order, is compared with all others, the first of those that are unlike it with the rest of
them, and so on. Then the bands are joined. If a document that is repeated repeats another one itself, those beside it
are compared with the one that stays, and if they are unlike it looked at again. So each dropped document is like one
that is kept, and the ends of a chain of revisions stay.

A page can be mostly boilerplate and have a text of its own: a long run of words that the other lacks (`own_run`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_prep.text.scripts import code_points
from data_prep.text.words import Hashes, Places, mix, ngram_hashes, words
from linformer_fairseq.ranges import Checked, Range

Signatures = NDArray[np.uint32]

# Documents of a bucket that are compared with all later ones. Only those that share a band but not their text, such as
# filled-in forms, need more; the bound keeps the work linear.
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
    # How much worse a missed pair is than a needless comparison, from 0 to 1; comparisons are cheap.
    missed: float = field(default=0.95, metadata={"range": Range(0, 1)})
    own_words: int = 100  # a document with so long a run of words that the other lacks is no duplicate; 0: no rule
    repeated_paragraphs: int = 0  # a paragraph in more documents than this is removed from all; 0: none is

    def bands_and_rows(self) -> tuple[int, int]:
        """Number of bands and rows of each, as datasketch finds best for the threshold."""
        from datasketch import MinHashLSH  # with scipy, half a second of every start that needs neither

        index = MinHashLSH(self.threshold, self.permutations, weights=(1 - self.missed, self.missed))
        return index.b, index.r


def sketches(texts: Sequence[str], config: NearDuplicates) -> tuple[Signatures, list[Hashes]]:
    """The signatures of texts, and some shingles of each, in order: the hash above, the place in the lower half."""
    from datasketch import MinHash

    # Handed an array of finished hashes as one shingle, datasketch works through all of them at once.
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


def first_equal(hashes: Hashes) -> Places:
    """The first document with the same hash as each, (D,)."""
    _, index, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return index[inverse]


@dataclass
class Comparison:
    """What documents are compared by. ``own_text`` tells whether one has a text of its own beside another."""

    signatures: Signatures  # (D, permutations), perhaps a memory-mapped file, of which only candidates are read
    threshold: float
    own_text: Callable[[int, int], bool] = lambda document, other: False
    count: int = 0  # of comparisons

    def band(self, hashes: Hashes, alive: Places) -> Places:
        """The documents that share a bucket of one band, (3, M): their index, bucket, and what each repeats or itself.

        ``hashes`` are the :func:`band_hashes` of all documents, (D,); ``alive`` are the documents to look at, in order.
        """
        order = alive[np.argsort(hashes[alive], kind="stable")]
        starts = np.diff(hashes[order], prepend=~hashes[order[:1]]) != 0  # whether a bucket starts here
        shared = ~(starts & np.append(starts[1:], True))
        members, buckets = order[shared], np.cumsum(starts)[shared]
        return np.stack([members, buckets, self._repeated(members, buckets)])

    def join(self, bands: Sequence[Places], first: Places) -> Places:
        """The index of the kept document that each repeats, (D,), or -1, from the results of :meth:`band`.

        ``first`` are the documents whose text is exactly that of each, (D,), or itself; it is changed in place.
        """
        for members, _, repeated in bands:
            first[members] = np.minimum(first[members], repeated)
        for left in reversed(range(PASSES)):
            lost = np.flatnonzero(first[first] != first)  # beside a document that is dropped itself
            kept = first
            while (kept[kept] != kept).any():
                kept = kept[kept]
            still, _ = self._similar(kept[lost], lost)
            first[lost] = np.where(still, kept[lost], lost)
            if still.all() or not left:
                break
            wanted = np.zeros(len(first), bool)
            wanted[lost[~still]] = True
            for members, buckets, _ in bands:
                alive = first[members] == members
                alive &= np.isin(buckets, buckets[alive & wanted[members]])
                first[members[alive]] = self._repeated(members[alive], buckets[alive])
        return np.where(first == np.arange(len(first)), -1, first)

    def _repeated(self, members: Places, buckets: Places) -> Places:
        """What each document repeats in its bucket, or itself; they are sorted by bucket and index."""
        result = members.copy()
        own_texts = np.zeros(len(members), np.int64)  # how often each document had a text of its own
        places = np.arange(len(members))
        for _ in range(REPRESENTATIVES):
            if not len(places):
                break
            # The first of each bucket represents it in this round.
            is_head = np.diff(buckets[places], prepend=-1) > 0
            heads = members[places[is_head][np.cumsum(is_head) - 1]]
            rest = places[~is_head]
            similar, own = self._similar(heads[~is_head], members[rest])
            result[rest[similar]] = heads[~is_head][similar]
            own_texts[rest[own]] += 1
            places = rest[~similar & (own_texts[rest] < OWN_TEXTS)]
        return result

    def _similar(self, left: Places, right: Places) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each document of ``right`` repeats that of ``left``, or would without a text of its own."""
        enough = self.threshold * self.signatures.shape[1]
        like, own = np.zeros((2, len(left)), bool)
        self.count += len(left)
        for start in range(0, len(left), _PAIRS):
            chosen = slice(start, start + _PAIRS)
            agree = self.signatures[left[chosen]] == self.signatures[right[chosen]]
            like[chosen] = np.count_nonzero(agree, axis=1) >= enough
        places = np.flatnonzero(like)
        for place in places[np.argsort(right[places])].tolist():  # in the order of the corpus, as files are opened
            own[place] = self.own_text(int(right[place]), int(left[place]))
        return like & ~own, own

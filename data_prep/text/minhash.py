"""MinHash signatures: how similar two long texts are, estimated from 128 numbers each (Broder 1997).

The similarity of two texts is the Jaccard index of their sets of shingles, runs of five words. Two signatures agree
in any one place with that probability. Documents are only compared if they agree in all rows of at least one band of
their signatures (Leskovec et al., Mining of Massive Datasets, sec. 3.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from data_prep.text.words import Hashes, code_points, mix, ngram_hashes, words

Signatures = NDArray[np.uint32]

# Shingles that are hashed at once, so that their (shingles, permutations) array stays in the processor's cache.
_SHINGLES = 512


@dataclass
class NearDuplicates:
    """What counts as a near duplicate; threshold and shingle are those of Lee et al. 2022."""

    threshold: float = 0.8  # documents of at least this estimated Jaccard similarity are duplicates
    shingle: int = 5  # words in a shingle; characters in scripts without spaces
    permutations: int = 128  # numbers in a signature; the estimate's standard error is at most 0.5 / sqrt(permutations)
    # How much worse a missed pair is than a needless comparison, from 0 to 1, when bands and rows are chosen.
    # Comparisons are cheap, since each candidate pair is verified against the signatures.
    missed: float = 0.95

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
        shingles = _shingles(text, config.shingle)
        for start in range(0, len(shingles), _SHINGLES):
            minhash.update_batch([shingles[start : start + _SHINGLES]])
        row[:] = minhash.hashvalues
    return result


def _shingles(text: str, n: int) -> NDArray[np.uint32]:
    hashes = words(text).hashes
    if len(hashes) == 0:  # nothing but punctuation: equal to the same punctuation only
        hashes = mix(code_points(text).astype(np.uint64))
    grams = ngram_hashes(hashes, min(n, len(hashes)))
    return (grams >> np.uint64(32)).astype(np.uint32)


def band_hashes(signatures: Signatures, bands: int, rows: int) -> Hashes:
    """One hash of each band of each signature, (documents, bands); equal where all rows of a band are equal."""
    values = signatures[:, : bands * rows].reshape(len(signatures), bands, rows).astype(np.uint64)
    hashes = np.zeros(values.shape[:2], np.uint64)
    for row in range(rows):
        hashes = mix(hashes * np.uint64(0x9E3779B97F4A7C15) + values[:, :, row])
    return cast(Hashes, hashes)

"""How much of a document repeats itself: the measures of Rae et al. 2021 (Gopher), table A1, over words.

They were set for web pages, of which few have more than a few thousand words. In longer texts ever more n-grams
recur by chance, so a document is measured in parts of a page's size, and its share is the mean of theirs.

Here ``hashes`` and ``lengths`` (in characters) belong to the W words of a document, both (W,).
"""

from collections.abc import Iterator

import numpy as np

from data_prep.text.words import Hashes, Places, ngram_hashes

PART = 4096  # words


def repeats(hashes: Hashes, lengths: Places, n: int, limit: float) -> bool:
    """Whether n-grams that have occurred before hold more than ``limit`` of a document's characters."""
    repeated = sum(_repeated(grams, part, n) for grams, part in _parts(hashes, lengths, n))
    return repeated > limit * int(lengths.sum())


def has_frequent(hashes: Hashes, lengths: Places, n: int, limit: float) -> bool:
    """Whether the most frequent n-gram holds more than ``limit`` of a document's characters."""
    most = sum(_most_frequent(grams, part, n) for grams, part in _parts(hashes, lengths, n))
    return most > limit * int(lengths.sum())


def _parts(hashes: Hashes, lengths: Places, n: int) -> Iterator[tuple[Hashes, Places]]:
    """Hashes of n-grams and lengths of words, part by part."""
    for start in range(0, len(hashes) - n + 1, PART):
        yield ngram_hashes(hashes[start : start + PART], n), lengths[start : start + PART]


def _repeated(grams: Hashes, lengths: Places, n: int) -> int:
    """Characters in n-grams that have occurred before, in one part."""
    ordered = np.sort(grams)
    if not (ordered[1:] == ordered[:-1]).any():
        return 0
    order = np.argsort(grams, kind="stable")
    again = order[1:][grams[order[1:]] == grams[order[:-1]]]
    # Over each of the n words of a repeated n-gram this counts up once, so that overlaps are not counted twice.
    cover = np.zeros(len(lengths) + 1, np.int64)
    cover[again] += 1
    cover[again + n] -= 1
    return int(lengths[np.cumsum(cover[:-1]) > 0].sum())


def _most_frequent(grams: Hashes, lengths: Places, n: int) -> int:
    """Characters in the n-gram that holds the most, in one part; an n-gram that occurs once holds none."""
    _, first, counts = np.unique(grams, return_index=True, return_counts=True)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return int(np.max(np.where(counts > 1, counts * (ends[first + n] - ends[first]), 0), initial=0))

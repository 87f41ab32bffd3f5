"""How much of a document repeats itself: the measures of Rae et al. 2021 (Gopher), table A1, over words.

They were set for web pages, of which few have more than a few thousand words. In longer texts ever more n-grams
come up again by chance, so a document is measured in parts of a page's size, and its share is the mean of theirs.
"""

from __future__ import annotations

import numpy as np

from data_prep.text.words import Hashes, Places, ngram_hashes

# Words in a part.
PART = 4096


def repeated_share(hashes: Hashes, lengths: Places, n: int) -> float:
    """Share of the characters of W words that stand in n-grams which have come before; hashes and lengths (W,)."""
    repeated = 0
    for start in range(0, len(hashes), PART):
        repeated += _repeated(ngram_hashes(hashes[start : start + PART], n), lengths[start : start + PART], n)
    return repeated / max(1, int(lengths.sum()))


def _repeated(grams: Hashes, lengths: Places, n: int) -> int:
    ordered = np.sort(grams)
    if not (ordered[1:] == ordered[:-1]).any():
        return 0
    order = np.argsort(grams, kind="stable")
    # Over each of the n words of a repeated n-gram this counts up once, so that overlaps are not counted twice.
    cover = np.zeros(len(lengths) + 1, np.int64)
    again = order[1:][grams[order[1:]] == grams[order[:-1]]]
    cover[again] += 1
    cover[again + n] -= 1
    return int(lengths[np.cumsum(cover[:-1]) > 0].sum())


def top_share(hashes: Hashes, lengths: Places, n: int) -> float:
    """Share of the characters of W words that the most frequent n-gram takes; hashes and lengths (W,)."""
    top = 0
    for start in range(0, len(hashes), PART):
        top += _top(ngram_hashes(hashes[start : start + PART], n), lengths[start : start + PART], n)
    return top / max(1, int(lengths.sum()))


def _top(grams: Hashes, lengths: Places, n: int) -> int:
    if not len(grams):
        return 0
    _, first, counts = np.unique(grams, return_index=True, return_counts=True)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return int(np.max(np.where(counts > 1, counts * (ends[first + n] - ends[first]), 0)))

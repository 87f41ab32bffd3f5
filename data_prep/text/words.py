"""Words and n-grams of words as numbers: what comparing texts is made of.

A word is a run of letters, marks and digits, casefolded; all else only separates. Scripts that are written
without spaces (Chinese, Japanese, Thai, …) have no such runs, so there each character is a word; `scripts.py` says
which they are. Hashes depend on the text alone: they are the same in every process, on every machine and in every run.
"""

import functools
import sys
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.text.scripts import IDEOGRAPHS, UNSPACED_LETTERS, code_points

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

# Characters or words that are hashed at once: their arrays fit the second-level cache, and memory stays flat.
PIECE = 1 << 15

# Odd numbers with bits spread over all 64 places: bases of polynomial hashes modulo 2**64.
_CHARACTER_BASE = 0x9E3779B97F4A7C15
_WORD_BASE = 0xD1342543DE82EF95
_ALONE = 2  # the kind of a character that is a word by itself; letters are 1, separators 0


@dataclass(frozen=True)
class Words:
    """The W words of a text: the casefolded text, where each word starts and ends in it, and hashes, all (W,)."""

    text: str
    starts: Places
    ends: Places
    hashes: Hashes

    def ngram(self, first: int, n: int) -> str:
        """The words ``first`` to ``first + n - 1``, joined by spaces."""
        places = zip(self.starts[first : first + n].tolist(), self.ends[first : first + n].tolist(), strict=True)
        return " ".join(self.text[start:end] for start, end in places)


def words(text: str) -> Words:
    """Find and hash the words of a text; takes 24 bytes of memory a word."""
    folded = text.lower() if text.isascii() else text.casefold()
    found: list[tuple[Places, Places, Hashes]] = []
    first = 0
    while first < len(folded) or not found:
        last = first + PIECE
        if last < len(folded):  # cut after a space or line end; a word that is longer than a piece is cut, too
            last = (max(folded.rfind(" ", first, last), folded.rfind("\n", first, last)) + 1) or last
        codes = code_points(folded[first:last])
        kinds = np.zeros(len(codes) + 2, np.uint8)  # separators at both ends
        kinds[1:-1] = _character_kinds()[codes]
        # The text changes between words and separators, and before each character that is a word by itself.
        edges = np.flatnonzero((kinds[1:] != kinds[:-1]) | (kinds[1:] == _ALONE))
        kept = np.flatnonzero(kinds[edges + 1])
        starts, ends = edges[kept], edges[kept + 1]
        found.append((starts + first, ends + first, _run_hashes(codes, starts, ends, _CHARACTER_BASE)))
        first = last
    return Words(folded, *map(np.concatenate, zip(*found, strict=True)))


def ngram_hashes(hashes: Hashes, n: int) -> Hashes:
    """Hashes of the n-grams of a sequence of W word hashes, (max(0, W - n + 1),)."""
    grams = [np.zeros(0, np.uint64)]
    for start in range(0, len(hashes) - n + 1, PIECE - n + 1):
        piece = hashes[start : start + PIECE]
        grams.append(_run_hashes(piece, slice(len(piece) - n + 1), slice(n, None), _WORD_BASE))
    return np.concatenate(grams)


def _run_hashes(values: NDArray[Any], starts: Places | slice, ends: Places | slice, base: int) -> Hashes:
    """Hashes of the runs of values from ``starts`` to ``ends``, wherever they are, from running sums."""
    powers, inverse = _powers(base)
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return mix((sums[ends] - sums[starts]) * inverse[starts])


@functools.cache
def _character_kinds() -> NDArray[np.uint8]:
    """The kind of each code point, (1114112,); takes 0.2 s once a process."""
    points = range(sys.maxunicode + 1)
    kinds = np.fromiter((unicodedata.category(chr(point))[0] in "LMN" for point in points), np.uint8, len(points))
    for first, last in (*IDEOGRAPHS, *UNSPACED_LETTERS):
        kinds[first : last + 1] *= _ALONE
    return kinds


def mix(values: Hashes) -> Hashes:
    """Spread every bit over all 64 (the finalizer of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


@functools.cache
def _powers(base: int) -> tuple[Hashes, Hashes]:
    """(base**i, base**-i) modulo 2**64 for i below PIECE: the second makes a hash independent of its place."""
    exponents = np.arange(PIECE, dtype=np.uint64)
    return np.uint64(base) ** exponents, np.uint64(pow(base, -1, 2**64)) ** exponents

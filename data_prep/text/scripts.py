"""What differs between scripts: what separates words, how much a character says, and where a text may be cut.

Which scripts have no spaces between words is in Unicode Standard Annex 14 (classes ID, SA and AK); the ends of
sentences (Sentence_Terminal) and the bounds of graphemes, what a reader takes for a character, are those of the library
regex.
"""

import functools
import sys
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

Points = NDArray[np.int64]  # code points


def _points(blocks: str) -> Points:
    """The code points of some blocks, each given by its first and last."""
    bounds = (block.split("-") for block in blocks.split())
    return np.concatenate([np.arange(int(first, 16), int(last, 16) + 1) for first, last in bounds])


# No spaces, and a character is a word or a syllable: marks of Han, Kana with Bopomofo, Han, Yi, Vai, Han, Kana of half
# width, Tangut with Khitan, Kana with Nushu, Han.
IDEOGRAPHS = _points(
    "3005-3007 3041-312F 31A0-31BF 31F0-31FF 3400-9FFF A000-A4CF A500-A63F F900-FAFF FF66-FF9F "
    "16FE0-18DFF 1B000-1B2FF 20000-3FFFF"
)
_KANA = _points("3041-30FF 31F0-31FF FF66-FF9F")  # among them
# No spaces, and a character is a letter or a mark: Thai with Lao, Myanmar, Khmer, Tai Le with Khmer's symbols, Buginese
# with Tai Tham, Balinese, Batak, Javanese with Myanmar, Cham with Tai Viet, Ahom.
UNSPACED_LETTERS = _points(
    "0E00-0EFF 1000-109F 1780-17FF 1950-19FF 1A00-1AAF 1B00-1B7F 1BC0-1BFF A980-A9FF AA00-AADF 11700-1174F"
)
# Words have spaces, and a character is a syllable: Ethiopic, Cherokee, Canadian syllabics, Hangul.
_SYLLABLES = _points("1200-167F 2D80-2DDF AB00-AB2F AC00-D7A3")
# White space, the Tibetan tsheg, the Ethiopic word space and marks, the space of no width, and Han's marks.
_SEPARATORS = _points(
    "000A-000A 0020-0020 0F0B-0F14 1360-1368 200B-200B 3001-3004 3008-3020 FF01-FF0F FF1A-FF20 FF3B-FF40 FF5B-FF65"
)
_SPACED, _SYLLABLE, _SEPARATOR, _HAN, _KANA_KIND, _UNSPACED = range(6)

# Unicode has not marked the Tibetan shad. Quotes and brackets that close belong to the sentence.
_CLOSING = r"[\p{Pe}\p{Pf}\"'”]*"
_SENTENCE_END = regex.compile(rf"(?:[\p{{STerm}}།༎--[.!?]]+|[.!?…]+(?={_CLOSING}(?:\s|$))){_CLOSING}", regex.VERSION1)
_AT_SENTENCE_END = regex.compile(rf"[\p{{STerm}}…།༎]{_CLOSING}$")
_GRAPHEME = regex.compile(r"\X")


class Size(NamedTuple):
    """How much a text says, alike in all scripts."""

    letters: int  # characters, where a syllable counts as two, and an ideograph as three
    words: int  # between spaces, of one ideograph, or of four letters without spaces; long words count as more
    mean_word: float  # characters of the words between spaces; 0 if most of the text is without spaces
    unit: int  # words of `words.words` in a real one: 1; of most ideographs 2; of Japanese 3; else without spaces 6


def measure(text: str) -> Size:
    """The size of a text in corpus form, which separates by single spaces and line ends."""
    if text.isascii():
        spaced = text.count(" ") + text.count("\n") + 1
        return Size(len(text), max(spaced, len(text) // 8), (len(text) - spaced + 1) / spaced, 1)
    kinds = _kinds()[code_points(text)]
    inside = kinds <= _SYLLABLE  # in a word between spaces
    spaced = int(inside[0]) + int(np.count_nonzero(inside[1:] > inside[:-1]))
    counts = np.bincount(kinds, minlength=_UNSPACED + 1).tolist()
    characters = counts[_SPACED] + counts[_SYLLABLE]
    ideographs, unspaced = counts[_HAN] + counts[_KANA_KIND], counts[_UNSPACED]
    few = characters > ideographs + unspaced
    return Size(
        len(text) + counts[_SYLLABLE] + 2 * ideographs,
        max(spaced, (characters + spaced) // 8) + ideographs + unspaced // 4,
        characters / spaced if few and spaced else 0.0,
        1 if few else 6 if unspaced > ideographs else 3 if counts[_KANA_KIND] > ideographs // 4 else 2,
    )


def code_points(text: str) -> NDArray[np.uint8] | NDArray[np.uint32]:
    """The characters of a text as numbers."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@functools.cache
def _kinds() -> NDArray[np.uint8]:
    """The kind of each code point, (1114112,)."""
    kinds = np.full(sys.maxunicode + 1, _SPACED, np.uint8)
    kinds[_SYLLABLES] = _SYLLABLE
    kinds[IDEOGRAPHS] = _HAN
    kinds[_KANA] = _KANA_KIND
    kinds[UNSPACED_LETTERS] = _UNSPACED
    kinds[_SEPARATORS] = _SEPARATOR
    return kinds


def graphemes(text: str) -> list[str]:
    """What a reader takes for the characters of a text: no letter without its marks, no half of an emoji."""
    found: list[str] = _GRAPHEME.findall(text)
    return found


def is_bound(text: str, place: int) -> bool:
    """Whether a grapheme ends before `place`, judged by the characters around it."""
    start = max(0, place - 16)
    return place == start or place - start in accumulate(map(len, graphemes(text[start : place + 8])))


def ends_sentence(text: str) -> bool:
    """Whether a text ends where a sentence does."""
    return _AT_SENTENCE_END.search(text, max(0, len(text) - 9)) is not None


def sentence_ends(text: str) -> list[int]:
    """Where sentences end in a text; after `.`, `!`, `?` or an ellipsis only before white space."""
    return [found.end() for found in _SENTENCE_END.finditer(text)]

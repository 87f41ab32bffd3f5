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

Ranges = tuple[tuple[int, int], ...]  # first and last code points

# No spaces, and a character is a word or a syllable.
IDEOGRAPHS: Ranges = (
    (0x3005, 0x3007),  # Han: iteration mark, closing mark, zero
    (0x3041, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31BF),  # Bopomofo, extensions
    (0x31F0, 0x31FF),  # Katakana, extensions
    (0x3400, 0x9FFF),  # Han
    (0xA000, 0xA4CF),  # Yi
    (0xA500, 0xA63F),  # Vai
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9F),  # Katakana of half width
    (0x16FE0, 0x18DFF),  # Tangut, Khitan
    (0x1B000, 0x1B2FF),  # Kana, supplements; Nushu
    (0x20000, 0x3FFFF),  # Han, extensions
)
# No spaces, and a character is a letter or a mark.
UNSPACED_LETTERS: Ranges = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer symbols
    (0x1A00, 0x1AAF),  # Buginese, Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x1BC0, 0x1BFF),  # Batak
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA00, 0xAADF),  # Cham, Myanmar, Tai Viet
    (0x11700, 0x1174F),  # Ahom
)
# Words have spaces, and a character is a syllable: Ethiopic, Cherokee, Canadian syllabics, Hangul.
_SYLLABLES: Ranges = ((0x1200, 0x167F), (0x2D80, 0x2DDF), (0xAB00, 0xAB2F), (0xAC00, 0xD7A3))
HAN_MARKS: Ranges = (
    *((0x3001, 0x3004), (0x3008, 0x3020), (0xFF01, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65)),
)
# Besides white space: the Tibetan tsheg, the Ethiopic word space and marks, the space of no width.
_SEPARATORS: Ranges = ((0x0F0B, 0x0F14), (0x1360, 0x1368), (0x200B, 0x200B), *HAN_MARKS)
_KANA: Ranges = ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))  # also ideographs here
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
        max(spaced, (characters + counts[_SYLLABLE] + spaced) // 8) + ideographs + unspaced // 4,
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
    spaces = tuple((ord(c), ord(c)) for c in " \n")
    for kind, ranges in (
        (_SYLLABLE, _SYLLABLES),
        (_HAN, IDEOGRAPHS),
        (_KANA_KIND, _KANA),
        (_UNSPACED, UNSPACED_LETTERS),
        (_SEPARATOR, (*spaces, *_SEPARATORS)),
    ):
        for first, last in ranges:
            kinds[first : last + 1] = kind
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

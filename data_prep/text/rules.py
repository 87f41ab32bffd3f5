"""Which documents are worth training on: rules of C4 and Gopher that hold in any language.

C4 is Raffel et al. 2020, sec. 2.2; Gopher is Rae et al. 2021, table A1. A word is what is between spaces, or about
as much of a script that is written without them (Chinese, Japanese, Thai, …: see ``scripts.Size``). Rules on the length
of words leave texts in such a script alone. No document is dropped for being long.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from data_prep.text.normalize import LineRules, normalize, without_boilerplate
from data_prep.text.scripts import measure
from data_prep.text.words import Hashes, Places, ngram_hashes, words
from linformer_fairseq.ranges import Checked

# Gopher's limits on repeated n-grams were set for web pages, of which few have more than a few thousand words. In
# longer texts ever more n-grams recur by chance, so a document is measured in parts of this many words.
PART = 4096

_WITH_LETTER = re.compile(r"[^\W\d_]\S*")
_NO_LETTER_FIRST = re.compile(r"[ \n][\W\d_]")
_BULLETS = tuple("-*•‣◦▪●○■□➢")
_ENGLISH = frozenset("the be to of and that have with".split())  # Gopher's stop words


@dataclass
class CleanConfig(Checked):
    """Settings of the stage ``clean``; the defaults suit encyclopedias and books in any language.

    Shares are between 0 and 1; a share of 1 switches a rule on repetition, bullets or ellipses off.
    """

    lines: LineRules = field(default_factory=LineRules)  # which lines are taken out of documents
    min_characters: int = 100  # of Hangul, … count as two, of Han and Kana as three; not in Gopher or C4
    min_words: int = 20  # Gopher: 50, which would drop the stubs of an encyclopedia
    min_mean_word: float = 2.0  # characters; Gopher: 3, but Vietnamese separates syllables
    max_mean_word: float = 20.0  # characters; Gopher: 10, but words of Finnish are longer, and of Greenlandic 15 long
    max_symbols: float = 0.1  # "#", "…" and "..." per word; Gopher
    min_alphabetic: float = 0.7  # share of words with a letter; Gopher: 0.8, but encyclopedias are full of dates
    max_bullet_lines: float = 0.9  # share of lines that begin with a bullet; Gopher
    max_ellipsis_lines: float = 0.3  # share of lines that end in an ellipsis; Gopher
    max_repeated_lines: float = 0.3  # share of lines that repeat an earlier one; Gopher
    max_repeated_line_characters: float = 0.2  # share of characters in such lines; Gopher
    min_words_for_ngrams: int = 100  # in shorter ones, a title that occurs three times is too much
    max_top_ngrams: tuple[float, ...] = (0.20, 0.18, 0.16)  # share of characters in the top 2-, 3- and 4-gram; Gopher
    # Share of characters in 5- to 10-grams that have occurred before; Gopher.
    max_repeated_ngrams: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    english_stop_words: int = 0  # English only: how many of eight stop words a document needs; Gopher: 2
    web_pages: bool = False  # web only: drops pages with "lorem ipsum" or a curly bracket (program code); C4


class Cleaned(NamedTuple):
    """A document without the lines that were removed."""

    text: str
    dropped: str | None  # why, if it should be
    removed: Counter[str]  # lines by reason


def clean(text: str, config: CleanConfig) -> Cleaned:
    """Normalize a text, remove boilerplate and judge what is left; the text need not be in corpus form."""
    text, removed = without_boilerplate(normalize(text), config.lines)
    return Cleaned(text, _reason_to_drop(text, config), removed)


def _reason_to_drop(text: str, config: CleanConfig) -> str | None:
    """The first rule that a text in corpus form breaks, cheap rules first."""
    size = measure(text)
    if size.letters < config.min_characters:
        return "too few characters"
    if size.words < config.min_words:
        return "too few words"
    if size.mean_word and not config.min_mean_word <= size.mean_word <= config.max_mean_word:
        return "word length"
    if text.count("#") + text.count("…") + text.count("...") > config.max_symbols * size.words:
        return "symbols"
    lines = text.split("\n")
    if sum(line.startswith(_BULLETS) for line in lines) > config.max_bullet_lines * len(lines):
        return "bullet lines"
    if sum(line.endswith(("…", "...")) for line in lines) > max(1, config.max_ellipsis_lines * len(lines)):
        return "ellipsis lines"
    distinct = set(lines)
    repeated = len(text) - len(lines) + 1 - sum(map(len, distinct))  # characters
    if len(lines) - len(distinct) > config.max_repeated_lines * len(lines):
        return "repeated lines"
    if repeated > config.max_repeated_line_characters * len(text):
        return "repeated lines"
    spaced = text.count(" ") + len(lines)
    # Most texts have so few words that begin without a letter that the slower count is not needed.
    if len(_NO_LETTER_FIRST.findall(text)) + 1 > (1 - config.min_alphabetic) * spaced:
        if len(_WITH_LETTER.findall(text)) < config.min_alphabetic * spaced:
            return "few words with letters"
    if config.english_stop_words and len(_ENGLISH.intersection(text.lower().split())) < config.english_stop_words:
        return "few English stop words"
    if config.web_pages and ("{" in text or "lorem ipsum" in text.lower()):
        return "code or filler"
    return _repetition(text, size.unit, config) if size.words >= config.min_words_for_ngrams else None


def _repetition(text: str, scale: int, config: CleanConfig) -> str | None:
    """Gopher's rules on n-grams; a word of a script without spaces is taken for ``scale`` characters (`Size.unit`)."""
    found = words(text)
    hashes, lengths = found.hashes, found.ends - found.starts
    if len(hashes) < config.min_words_for_ngrams * scale:
        return None

    def exceeds(characters: Callable[[Hashes, Places, int], int], n: int, limit: float) -> bool:
        parts = [slice(start, start + PART) for start in range(0, len(hashes) - n * scale + 1, PART)]
        held = sum(characters(ngram_hashes(hashes[part], n * scale), lengths[part], n * scale) for part in parts)
        return held > limit * int(lengths.sum())

    # No longer n-gram repeats more than the shortest, so that one measure nearly always suffices. Likewise, one of 3 or
    # 4 words is covered by two of 2 words.
    for reason, characters, shortest, limits, covers in (
        ("repeated n-grams", _repeated, 5, config.max_repeated_ngrams, 1),
        ("one n-gram again and again", _most_frequent, 2, config.max_top_ngrams, 2),
    ):
        if limits and exceeds(characters, shortest, min(limits) / covers):
            if any(exceeds(characters, n, limit) for n, limit in enumerate(limits, shortest)):
                return reason
    return None


def _repeated(grams: Hashes, lengths: Places, n: int) -> int:
    """Characters in n-grams that have occurred before, of words of the given ``lengths``."""
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
    """Characters in the n-gram that holds the most; an n-gram that occurs once holds none."""
    _, first, counts = np.unique(grams, return_index=True, return_counts=True)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return int(np.max(np.where(counts > 1, counts * (ends[first + n] - ends[first]), 0), initial=0))

"""An index of the n-grams of benchmark examples, and the search for them in documents.

A document is contaminated where it shares a run of 13 words with an example (Brown et al. 2020, GPT-3, app. C), or
holds the whole of an example of 8 to 12 words. Letters and digits count; case, accents, vowel points, widths, format
characters and punctuation do not. A character of Han or Kana is a word; of other scripts without spaces, six characters
are (`scripts.Size.unit`). Hashes find the candidates; a match counts only if the words themselves agree.
"""

import re
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from data_prep.text.scripts import measure
from data_prep.text.words import Hashes, Words, ngram_hashes, words
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done

LONGEST, SHORTEST = 13, 8  # words
_UNITS = (1, 6)  # of `words` in a word
_SIZES = [(length * unit, unit) for length in (LONGEST, SHORTEST) for unit in _UNITS]  # of n-grams, with their unit


class Match(NamedTuple):
    """Where a document has words of an example, in characters."""

    start: int
    end: int
    example: str


class NgramIndex:
    """Finds benchmark examples in documents: long ones by any of their 13-grams, short ones by their first 8 words."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Takes the examples in UTF-8, joined; their bounds, (examples + 1,); and two tables a unit, see ``_Table``."""
        self._arrays = arrays
        used = [(n, unit) for n, unit in _SIZES if len(arrays[f"{n}_hashes"])]
        self._tables = [(n, unit, _Table(arrays[f"{n}_hashes"], arrays[f"{n}_examples"])) for n, unit in used]

    @classmethod
    def build(cls, texts: Iterable[str]) -> Self:
        """Index examples; those of fewer than eight words are left out, since they prove nothing."""
        kept: list[bytes] = []
        hashes = {n: [np.zeros(0, np.uint64)] for n, _ in _SIZES}
        examples = {n: [np.zeros(0, np.uint32)] for n, _ in _SIZES}
        for text in texts:
            found, unit = words(_folded(text)).hashes, _unit(text)
            if len(found) >= SHORTEST * unit:
                n = (LONGEST if len(found) >= LONGEST * unit else SHORTEST) * unit
                grams = np.unique(ngram_hashes(found if len(found) >= LONGEST * unit else found[:n], n))
                hashes[n].append(grams)
                examples[n].append(np.full(len(grams), len(kept), np.uint32))
                kept.append(text.encode("utf-8", "surrogatepass"))
        arrays: dict[str, NDArray[Any]] = {
            "texts": np.frombuffer(b"".join(kept), np.uint8),
            "bounds": np.cumsum([0, *map(len, kept)], dtype=np.int64),
        }
        for n in hashes:
            joined = np.concatenate(hashes[n])
            order = np.argsort(joined, kind="stable")
            arrays |= {f"{n}_hashes": joined[order], f"{n}_examples": np.concatenate(examples[n])[order]}
        return cls(arrays)

    def matches(self, text: str) -> list[Match]:
        """The runs of words that a document shares with examples, the long examples before the short ones."""
        found = words(_folded(text))
        places = cache(lambda: list(accumulate((len(_FOLDED[ord(c)]) for c in text), initial=0)))
        example_words = cache(lambda number: words(_folded(self._example(number))))

        def place(folded: int) -> int:
            return folded if text.isascii() else int(np.searchsorted(places(), folded))

        matches = []
        for n, unit, table in self._tables:
            for first, examples in table.find(ngram_hashes(found.hashes, n)):
                for number in examples:
                    example: Words = example_words(number)
                    if _agree(found, first, example, LONGEST * unit):
                        last = first + min(len(example.hashes), LONGEST * unit) - 1
                        start, end = place(int(found.starts[first])), place(int(found.ends[last]))
                        matches.append(Match(start, end, self._example(number)))
                        break
        return matches

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self._arrays["bounds"]) - 1

    def _example(self, number: int) -> str:
        start, end = self._arrays["bounds"][number : number + 2]
        return str(self._arrays["texts"][start:end].tobytes().decode("utf-8", "surrogatepass"))

    def save(self, path: Path) -> None:
        """Write the index to one .npz file, atomically; the same examples give the same bytes."""
        with replace_when_done(path) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **self._arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote; raises UsageError if the file is not an index."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(dict(file))
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(f"{path}: not an index of n-grams ({error}); delete it and run again") from error


class _Table:
    """A multimap from n-grams to numbers of examples: hashes, sorted (G,) uint64, and numbers, (G,) uint32."""

    def __init__(self, hashes: NDArray[Any], examples: NDArray[Any]) -> None:
        self._hashes, self._examples = hashes, examples
        # The top bits of a hash rule out most n-grams with one memory access, much faster than a binary search.
        size = max(13, (8 * len(hashes)).bit_length())
        self._shift = np.uint64(64 - size)
        self._seen = np.zeros(1 << size, bool)
        self._seen[hashes >> self._shift] = True

    def find(self, grams: Hashes) -> Iterator[tuple[int, list[int]]]:
        """(place in ``grams``, numbers of the examples) of those that are in the table."""
        maybe = np.flatnonzero(self._seen[grams >> self._shift])
        bounds = (np.searchsorted(self._hashes, grams[maybe], side).tolist() for side in ("left", "right"))
        for place, start, end in zip(maybe.tolist(), *bounds, strict=True):
            if start < end:
                yield place, self._examples[start:end].tolist()


class _Folded(dict[int, str]):
    """What a character is compared as: benchmarks and documents need not be in the same form of Unicode."""

    def __missing__(self, point: int) -> str:
        parts = unicodedata.normalize("NFKD", chr(point).casefold()).casefold().replace("ı", "i")
        self[point] = "".join(part for part in parts if not _is_ignored(part))
        return self[point]


_FOLDED = _Folded()
_NOT_ASCII = re.compile("[^\x00-\x7f]+")


def _is_ignored(character: str) -> bool:
    """Whether it is a format character, or a mark that is left out at will; a vowel of Thai or of India is none."""
    mark = unicodedata.combining(character)
    return mark == 8 or 10 <= mark <= 36 or mark >= 200 or unicodedata.category(character) == "Cf" or character == "ـ"


def _folded(text: str) -> str:
    return _NOT_ASCII.sub(lambda found: found[0].translate(_FOLDED), text)  # the rest is casefolded by `words`


def _unit(text: str) -> int:
    unit = measure(text).unit
    return unit if unit in _UNITS else 1


def _agree(document: Words, place: int, example: Words, longest: int) -> bool:
    """Whether the words of a document at ``place`` are ``longest`` of an example, or all of a shorter one."""
    size = len(example.hashes)
    ngram, whole = document.ngram(place, min(size, longest)), example.ngram(0, size)
    return f" {ngram} " in f" {whole} " if size >= longest else ngram == whole

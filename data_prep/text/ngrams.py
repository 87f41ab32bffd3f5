"""An index of the n-grams of benchmark examples, and the search for them in documents.

A document is contaminated where it shares a run of 13 words with an example (Brown et al. 2020, GPT-3, app. C), or
holds the whole of an example of 8 to 12 words. Letters and digits count, case and punctuation do not. A character of
Han or Kana is a word; of other scripts without spaces, six characters are (`scripts.Size.unit`). Hashes find the
candidates; a match counts only if the words themselves agree.
"""

import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from data_prep.text.scripts import measure
from data_prep.text.words import Words, ngram_hashes, words
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
        """Takes the examples in UTF-8, joined; their bounds, (examples + 1,); and for each size of n-grams two tables.

        These are hashes, sorted (G,) uint64, and numbers of examples, (G,) uint32.
        """
        self._arrays = arrays
        # The top bits of a hash rule out most n-grams with one memory access, much faster than a binary search.
        self._seen: dict[int, tuple[np.uint64, NDArray[np.bool_]]] = {}
        for n, _ in _SIZES:
            if len(hashes := arrays[f"{n}_hashes"]):
                bits = max(13, (8 * len(hashes)).bit_length())
                shift, seen = np.uint64(64 - bits), np.zeros(1 << bits, bool)
                seen[hashes >> shift] = True
                self._seen[n] = shift, seen

    @classmethod
    def build(cls, texts: Iterable[str]) -> Self:
        """Index examples; those of fewer than eight words are left out, since they prove nothing."""
        kept: list[bytes] = []
        hashes = {n: [np.zeros(0, np.uint64)] for n, _ in _SIZES}
        examples = {n: [np.zeros(0, np.uint32)] for n, _ in _SIZES}
        for text in texts:
            found, unit = words(text).hashes, measure(text).unit
            unit = unit if unit in _UNITS else 1
            long = len(found) >= LONGEST * unit
            if len(found) >= SHORTEST * unit:
                n = (LONGEST if long else SHORTEST) * unit
                grams = np.unique(ngram_hashes(found if long else found[:n], n))
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
        found = words(text)
        places = list(accumulate((len(c.casefold()) for c in text), initial=0)) if len(found.text) != len(text) else []
        example_words = cache(lambda number: words(self._example(number)))

        def place(folded: int) -> int:
            return int(np.searchsorted(places, folded)) if places else folded

        matches = []
        for n, unit in _SIZES:
            for first, examples in self._candidates(n, found):
                for number in examples:
                    example: Words = example_words(number)
                    if _agree(found, first, example, LONGEST * unit):
                        last = first + min(len(example.hashes), LONGEST * unit) - 1
                        start, end = place(int(found.starts[first])), place(int(found.ends[last]))
                        matches.append(Match(start, end, self._example(number)))
                        break
        return matches

    def _candidates(self, n: int, document: Words) -> Iterator[tuple[int, list[int]]]:
        """The place of each n-gram of a document that examples have, too, and their numbers."""
        if n not in self._seen:
            return
        shift, seen = self._seen[n]
        grams = ngram_hashes(document.hashes, n)
        maybe = np.flatnonzero(seen[grams >> shift])
        hashes, examples = self._arrays[f"{n}_hashes"], self._arrays[f"{n}_examples"]
        bounds = (np.searchsorted(hashes, grams[maybe], side).tolist() for side in ("left", "right"))
        for place, start, end in zip(maybe.tolist(), *bounds, strict=True):
            if start < end:
                yield place, examples[start:end].tolist()

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


def _agree(document: Words, place: int, example: Words, longest: int) -> bool:
    """Whether the words of a document at ``place`` are ``longest`` of an example, or all of a shorter one."""
    size = len(example.hashes)
    ngram, whole = document.ngram(place, min(size, longest)), example.ngram(0, size)
    return f" {ngram} " in f" {whole} " if size >= longest else ngram == whole

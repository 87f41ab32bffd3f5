"""An index of the n-grams of benchmark examples, and the search for them in documents.

A document is contaminated if it shares a run of 13 words with an example (Brown et al. 2020, GPT-3, app. C), or
holds the whole of an example of 8 to 12 words. Letters and digits count, case and punctuation do not. Hashes
find the candidates; a match counts only if the words themselves agree.
"""

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_prep.text.words import Hashes, Words, ngram_hashes, words
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done

LONGEST, SHORTEST = 13, 8


class NgramIndex:
    """Finds benchmark examples in documents: long ones by any of their 13-grams, short ones by their first 8 words."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Takes the examples in UTF-8, joined; their bounds, (examples + 1,); and two tables, see ``_Table``."""
        self._arrays = arrays
        self._tables = {n: _Table(arrays[f"{n}_hashes"], arrays[f"{n}_examples"]) for n in (LONGEST, SHORTEST)}

    @classmethod
    def build(cls, texts: Iterable[str]) -> Self:
        """Index examples; those of fewer than eight words are left out, since they prove nothing."""
        kept: list[bytes] = []
        hashes = {n: [np.zeros(0, np.uint64)] for n in (LONGEST, SHORTEST)}
        examples = {n: [np.zeros(0, np.uint32)] for n in (LONGEST, SHORTEST)}
        for text in texts:
            found = words(text).hashes
            if len(found) >= SHORTEST:
                n = LONGEST if len(found) >= LONGEST else SHORTEST
                grams = np.unique(ngram_hashes(found if n == LONGEST else found[:SHORTEST], n))
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

    def matches(self, text: str) -> str | None:
        """The first example found in a document, the long ones before the short ones; None if there is none."""
        found = words(text)
        for n, table in self._tables.items():
            for place, examples in table.find(ngram_hashes(found.hashes, n)):
                for number in examples:
                    start, end = self._arrays["bounds"][number : number + 2]
                    example = self._arrays["texts"][start:end].tobytes().decode("utf-8", "surrogatepass")
                    if _agree(found, place, words(example)):
                        return example
        return None

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


def _agree(document: Words, place: int, example: Words) -> bool:
    """Whether the words of a document at ``place`` are 13 words of an example, or all of a shorter one."""
    size = len(example.hashes)
    ngram, whole = document.ngram(place, min(size, LONGEST)), example.ngram(0, size)
    return f" {ngram} " in f" {whole} " if size >= LONGEST else ngram == whole

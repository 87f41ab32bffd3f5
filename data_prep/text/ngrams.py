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
    """Finds benchmark examples in documents. Make one with :meth:`build` or :meth:`load`.

    Long examples are found by any of their 13-grams, short ones by their first eight words.
    """

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Takes all examples in UTF-8, joined; where each ends, (examples,); and the two tables, see ``_Table``."""
        self._arrays = arrays
        self._long, self._short = (_Table(arrays[f"{n}_hashes"], arrays[f"{n}_examples"]) for n in ("long", "short"))

    @classmethod
    def build(cls, texts: Iterable[str]) -> Self:
        """Indexes examples; those of fewer than eight words are left out, since they prove nothing."""
        kept: list[bytes] = []
        grams: dict[str, list[Hashes]] = {"long": [], "short": []}
        examples: dict[str, list[int]] = {"long": [], "short": []}
        for text in texts:
            found = words(text).hashes
            if len(found) >= LONGEST:
                table, found = "long", np.unique(ngram_hashes(found, LONGEST))
            elif len(found) >= SHORTEST:
                table, found = "short", ngram_hashes(found[:SHORTEST], SHORTEST)
            else:
                continue
            grams[table].append(found)
            examples[table].append(len(kept))
            kept.append(text.encode("utf-8", "surrogatepass"))
        arrays: dict[str, NDArray[Any]] = {
            "texts": np.frombuffer(b"".join(kept), np.uint8),
            "ends": np.cumsum([len(text) for text in kept], dtype=np.int64),
        }
        for table in grams:
            hashes = np.concatenate([np.zeros(0, np.uint64), *grams[table]])
            numbers = np.repeat(np.array(examples[table], np.uint32), list(map(len, grams[table])))
            order = np.argsort(hashes, kind="stable")
            arrays |= {f"{table}_hashes": hashes[order], f"{table}_examples": numbers[order]}
        return cls(arrays)

    def matches(self, text: str) -> str | None:
        """The first example found in a document, the long ones before the short ones; None if there is none."""
        found = words(text)
        for place, examples in self._long.find(ngram_hashes(found.hashes, LONGEST)):
            example = self._example(examples[0])
            if f" {found.ngram(place, LONGEST)} " in f" {_joined(words(example))} ":
                return example
        for place, examples in self._short.find(ngram_hashes(found.hashes, SHORTEST)):
            for example in map(self._example, examples):
                ngram = _joined(words(example))
                if found.ngram(place, ngram.count(" ") + 1) == ngram:
                    return example
        return None

    def _example(self, number: int) -> str:
        ends = self._arrays["ends"]
        text = self._arrays["texts"][ends[number - 1] if number else 0 : ends[number]]
        return text.tobytes().decode("utf-8", "surrogatepass")

    def save(self, path: Path) -> None:
        """Writes the index to one .npz file, atomically; the same examples give the same bytes."""
        with replace_when_done(path) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **self._arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            UsageError: the file is not an index.
        """
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


def _joined(found: Words) -> str:
    return found.ngram(0, len(found.hashes))

"""An index of the n-grams of benchmark examples, and the search for them in documents.

A document is contaminated if it shares a run of 13 words with an example (Brown et al. 2020, GPT-3, app. C), or
holds the whole of an example of 8 to 12 words. Letters and digits count, case and punctuation do not. Hashes
find the candidates; a match counts only if the very words agree.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.text.words import Hashes, Words, ngram_hashes, words
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done

LONGEST, SHORTEST = 13, 8

# Bits of the filter for each n-gram: of n-grams that are not in it, at most one in so many is looked up.
_FILTER_BITS = 16


@dataclass(frozen=True)
class Match:
    """What a document shares with an example.

    Attributes:
        ngram: the shared words, lower case, joined by spaces.
        example: number of the first example that has them, in the order of building.
        text: that example.
    """

    ngram: str
    example: int
    text: str


class _Table:
    """A multimap from n-grams to numbers of examples: hashes, sorted (G,) uint64, and numbers, (G,) uint32."""

    def __init__(self, hashes: Hashes, examples: NDArray[np.uint32]) -> None:
        self.hashes = hashes
        self.examples = examples
        # A bit for the top of each hash tells most of the others apart, at one access of memory each.
        size = max(13, (len(hashes) * _FILTER_BITS).bit_length())
        self._shift = np.uint64(64 - size)
        self._bits = np.zeros(1 << (size - 3), np.uint8)
        top = hashes >> self._shift
        np.bitwise_or.at(self._bits, top >> np.uint64(3), _bit(top))

    @classmethod
    def of(cls, entries: list[tuple[Hashes, NDArray[np.uint32]]]) -> _Table:
        """Sorts entries by hash, then by number of example."""
        hashes = np.concatenate([np.zeros(0, np.uint64), *(hashes for hashes, _ in entries)])
        examples = np.concatenate([np.zeros(0, np.uint32), *(examples for _, examples in entries)])
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], examples[order])

    def find(self, grams: Hashes) -> Iterator[tuple[int, NDArray[np.uint32]]]:
        """(place in ``grams``, numbers of the examples) of those that are in the table."""
        top = grams >> self._shift
        maybe = np.flatnonzero(self._bits[top >> np.uint64(3)] & _bit(top))
        if len(maybe):
            first = np.searchsorted(self.hashes, grams[maybe])
            behind = np.searchsorted(self.hashes, grams[maybe], "right")
            for place, start, end in zip(maybe.tolist(), first.tolist(), behind.tolist(), strict=True):
                if start < end:
                    yield place, self.examples[start:end]


def _bit(top: Hashes) -> NDArray[np.uint8]:
    return np.uint8(1) << (top & np.uint64(7)).astype(np.uint8)


class NgramIndex:
    """Finds examples in documents. Make one with :meth:`build` or :meth:`load`.

    Long examples are found by any of their 13-grams, short ones by their first eight words.
    """

    def __init__(self, long: _Table, short: _Table, texts: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self._long = long
        self._short = short
        self._texts = texts  # all examples in UTF-8, one behind the other
        self._ends = ends  # (examples,) where each ends

    @classmethod
    def build(cls, texts: Iterable[str]) -> NgramIndex:
        """Indexes examples; those of fewer than eight words are left out, since they prove nothing."""
        kept: list[bytes] = []
        long: list[tuple[Hashes, NDArray[np.uint32]]] = []
        short: list[tuple[Hashes, NDArray[np.uint32]]] = []
        for text in texts:
            hashes = words(text).hashes
            if len(hashes) < SHORTEST:
                continue
            if len(hashes) >= LONGEST:
                grams = np.unique(ngram_hashes(hashes, LONGEST))
                long.append((grams, np.full(len(grams), len(kept), np.uint32)))
            else:
                short.append((ngram_hashes(hashes[:SHORTEST], SHORTEST), np.full(1, len(kept), np.uint32)))
            kept.append(text.encode("utf-8", "surrogatepass"))
        ends = np.cumsum([len(text) for text in kept], dtype=np.int64)
        return cls(_Table.of(long), _Table.of(short), np.frombuffer(b"".join(kept), np.uint8), ends)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._ends)

    def text(self, example: int) -> str:
        """The example of that number."""
        start = int(self._ends[example - 1]) if example else 0
        return self._texts[start : int(self._ends[example])].tobytes().decode("utf-8", "surrogatepass")

    def matches(self, text: str) -> str | None:
        """The text of the first example found in a document, or None."""
        match = next(self.find(text), None)
        return match.text if match else None

    def find(self, text: str) -> Iterator[Match]:
        """What a document shares with examples: 13-grams in the document's order, then short examples."""
        found = words(text)
        for place, examples in self._long.find(ngram_hashes(found.hashes, LONGEST)):
            ngram, example = found.ngram(place, LONGEST), int(examples[0])
            if _holds(words(self.text(example)), ngram):
                yield Match(ngram, example, self.text(example))
        for place, examples in self._short.find(ngram_hashes(found.hashes, SHORTEST)):
            for example in examples.tolist():
                ngram = _joined(words(self.text(example)))
                if found.ngram(place, ngram.count(" ") + 1) == ngram:
                    yield Match(ngram, example, self.text(example))

    def save(self, path: Path) -> None:
        """Writes the index to one .npz file, atomically; the same examples give the same bytes."""
        arrays: dict[str, NDArray[np.generic]] = {"texts": self._texts, "ends": self._ends}
        for name, table in (("long", self._long), ("short", self._short)):
            arrays |= {f"{name}_hashes": table.hashes, f"{name}_examples": table.examples}
        with replace_when_done(path) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> NgramIndex:
        """Reads what :meth:`save` wrote.

        Raises:
            UsageError: the file is no index.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                long, short = (_Table(file[f"{name}_hashes"], file[f"{name}_examples"]) for name in ("long", "short"))
                return cls(long, short, file["texts"], file["ends"])
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(f"{path}: not an index of n-grams ({error}); delete it and run again") from error


def _joined(found: Words) -> str:
    return found.ngram(0, len(found.hashes))


def _holds(found: Words, ngram: str) -> bool:
    return f" {ngram} " in f" {_joined(found)} "

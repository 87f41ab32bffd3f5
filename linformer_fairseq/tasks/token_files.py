"""One split of fairseq's memory-mapped data, `.bin` and `.idx`, of which only what is asked for is read.

`.idx` is a header, the length of each sentence in int32, and its place in `.bin` in int64. The sentences follow each
other in `.bin`, so that it is one stream of tokens. Reads go through the file and not through a map: the pages of a map
would count as this process's memory, and stay.
"""

from __future__ import annotations

import os
import struct
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linformer_fairseq.errors import UsageError
from linformer_fairseq.tasks.permutation import Ints

_HEADER = struct.Struct("<9sQBQ")  # magic, version, code of the type of a token, sentences
_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16, 9: np.uint32, 10: np.uint64}
_MARKS = 1024  # sentences whose places are kept, to look others up
_WINDOW = 256  # places read at once


class TokenFile:
    """The tokens and sentences of `prefix`.bin and `prefix`.idx.

    Attributes:
        tokens: in the stream.
        sentences: lines of the text that it was made from; for `data_prep`, its items.
        dtype: of a token.
    """

    def __init__(self, prefix: Path) -> None:
        """Reads the header and looks whether the two files can belong together.

        Raises:
            UsageError: a file is missing, empty or damaged.
        """
        self.prefix = prefix
        try:
            self._index = (index := prefix.with_name(f"{prefix.name}.idx")).open("rb", buffering=0)
            self._data = (data := prefix.with_name(f"{prefix.name}.bin")).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise UsageError(
                f"{error.filename}: no such file; DATA has to be a folder made by `python -m data_prep binarize` or "
                f"fairseq-preprocess that has the split {prefix.name} (see --train-subset and --valid-subset)"
            ) from None
        size, header = os.stat(index).st_size, os.pread(self._index.fileno(), _HEADER.size, 0)
        if len(header) < _HEADER.size or header[:9] != b"MMIDIDX\0\0":
            raise UsageError(f"{index}: not an index of fairseq's mmap format; binarise the data again")
        _, version, code, self.sentences = _HEADER.unpack(header)
        if version != 1 or code not in _DTYPES:
            raise UsageError(
                f"{index}: version {version} and type {code} of tokens are unknown; binarise the data again"
            )
        self.dtype = np.dtype(_DTYPES[code])
        self._pointers = _HEADER.size + 4 * self.sentences
        if size != self._pointers + 8 * self.sentences:
            raise UsageError(f"{index}: {size} bytes do not fit {self.sentences} sentences; binarise the data again")
        self.tokens = os.stat(data).st_size // self.dtype.itemsize
        if not self.sentences or not self.tokens:
            raise UsageError(f"{data}: no tokens; the text of the split {prefix.name} was empty")
        last = np.frombuffer(os.pread(self._index.fileno(), 4, self._pointers - 4), "<i4")
        if self.starts(0, 1)[0] != 0 or self.starts(self.sentences - 1, 1)[0] + last[0] != self.tokens:
            raise UsageError(f"{index} and {data} do not belong together; binarise the data again")

    def read(self, starts: Ints, lengths: Ints) -> npt.NDArray[np.integer]:
        """The tokens of B stretches: (B, N) of the file's type, N the longest of them, zeros behind the shorter ones.

        Raises:
            UsageError: the file has become shorter.
        """
        rows = np.zeros((len(starts), int(lengths.max())), self.dtype)
        width, file = self.dtype.itemsize, self._data.fileno()
        for row, start, length in zip(rows, starts.tolist(), lengths.tolist(), strict=True):
            if os.preadv(file, [row[:length].data], start * width) != length * width:
                raise UsageError(f"{self.prefix}.bin has become shorter; binarise the data again")
        return rows

    def starts(self, first: int, number: int) -> Ints:
        """Where the sentences from `first` on start in the stream, (number,); behind the last one, where it ends."""
        stop = min(first + number, self.sentences)
        content = os.pread(self._index.fileno(), 8 * (stop - first), self._pointers + 8 * first)
        places = np.frombuffer(content, "<i8") // self.dtype.itemsize
        return np.append(places, self.tokens) if first + number > self.sentences else places

    def starts_between(self, low: int, high: int) -> Ints:
        """All places from `low` to `high`, both included, where a sentence starts, in order."""
        found: list[Ints] = []
        sentence = self._sentence_at(low)
        while sentence < self.sentences:
            found.append(self.starts(sentence, min(_WINDOW, self.sentences - sentence)))
            sentence += _WINDOW
            if found[-1][-1] > high:
                break
        places = np.concatenate([*found, np.empty(0, np.int64)])
        return places[: np.searchsorted(places, high, "right")]

    def _sentence_at(self, place: int) -> int:
        """The first sentence that starts at `place` or later, or the number of sentences."""
        marked, places = self._marks
        mark = int(np.searchsorted(places, place))
        if not mark:
            return 0
        # All sentences before `low` start before `place`, and those from `high` on do not.
        low, before = int(marked[mark - 1]) + 1, int(places[mark - 1])
        high, behind = (int(marked[mark]), int(places[mark])) if mark < len(marked) else (self.sentences, self.tokens)
        for turn in count():
            size = min(_WINDOW, high - low)
            # Where it would be if all were equally long; every other turn the middle, in case that they are not.
            share = (place - before) / max(behind - before, 1) if turn % 2 == 0 else 0.5
            first = min(max(low + int((high - low) * share) - size // 2, low), high - size)
            window = self.starts(first, size)
            found = int(np.searchsorted(window, place))
            if (found or first == low) and (found < size or first + size == high):
                return first + found
            if found:
                low, before = first + size, int(window[-1])
            else:
                high, behind = first, int(window[0])
        raise AssertionError("each turn leaves less to search")

    @cached_property
    def _marks(self) -> tuple[Ints, Ints]:
        marked = np.unique(np.linspace(0, self.sentences - 1, _MARKS).astype(np.int64))
        places = np.array([self.starts(sentence, 1)[0] for sentence in marked.tolist()])
        if (np.diff(places) < 0).any():
            raise UsageError(f"{self.prefix}.idx: sentences are not in order; binarise the data again")
        return marked, places

    def __getstate__(self) -> dict[str, Any]:
        return {"prefix": self.prefix}  # an open file does not travel to another process

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["prefix"])  # type: ignore[misc]

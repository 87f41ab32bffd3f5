"""One split of fairseq's binarised data, and which tokens of it make up block number b, by arithmetic.

`.idx` is a header, the length of each sentence in int32, and its place in `.bin` in int64. The sentences follow each
other in `.bin`, so it is one stream of tokens. Reads go through the file and not through a memory map, whose pages
would count as memory of this process, and stay.

A kind of blocks has a `count`, and a method `spans` that takes block numbers (B,) and returns where each block starts
in the stream and how many tokens it has, (B,) each.
"""

import os
import struct
from bisect import bisect_left
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linformer_fairseq.errors import UsageError

Ints: TypeAlias = npt.NDArray[np.int64]

_HEADER = struct.Struct("<9sQBQ")  # magic, version, code of the token type, number of sentences
_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16, 9: np.uint32, 10: np.uint64}
_MARKS = 1024  # sentences whose places are kept in memory, to look others up
_WINDOW = 256  # places read at once
_CHUNK = 16  # blocks
_SAMPLES = 16  # stretches of about as many blocks as a chunk, on which the fill of blocks is measured
_SLACK = 0.95  # of the tokens that greedy packing puts into a block; with less slack more sentences are cut


class TokenFile:
    """The stream of `tokens` in `prefix`.bin, and the `sentences` (for fairseq-preprocess, lines) of `prefix`.idx."""

    def __init__(self, prefix: Path) -> None:
        """Reads the header; a UsageError refuses files that are missing, empty, damaged or of two splits."""
        self.prefix = prefix
        try:
            self._index = (index := prefix.with_name(f"{prefix.name}.idx")).open("rb", buffering=0)
            self._data = (data := prefix.with_name(f"{prefix.name}.bin")).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise UsageError(
                f"{error.filename}: no such file; DATA must be a folder made by `linformer prepare binarize` or "
                f"fairseq-preprocess that has the split {prefix.name} (see --train-subset and --valid-subset)"
            ) from None
        size, header = os.stat(index).st_size, os.pread(self._index.fileno(), _HEADER.size, 0)
        if len(header) < _HEADER.size or header[:9] != b"MMIDIDX\0\0":
            raise UsageError(f"{index}: not an index of fairseq's mmap format; binarise the data again")
        _, version, code, self.sentences = _HEADER.unpack(header)
        if version != 1 or code not in _DTYPES:
            raise UsageError(f"{index}: version {version} with token type {code} is unknown; binarise the data again")
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
        """The tokens of B stretches: (B, N) of the file's type, N the longest of them, zeros after the shorter ones.

        A UsageError says so if the file has become shorter.
        """
        rows = np.zeros((len(starts), int(lengths.max())), self.dtype)
        width, file = self.dtype.itemsize, self._data.fileno()
        for row, start, length in zip(rows, starts.tolist(), lengths.tolist(), strict=True):
            if os.preadv(file, [row[:length].data], start * width) != length * width:
                raise UsageError(f"{self.prefix}.bin has become shorter; binarise the data again")
        return rows

    def starts(self, first: int, number: int) -> Ints:
        """Where the sentences from `first` on start in the stream, (number,); after the last one, where it ends."""
        stop = min(first + number, self.sentences)
        content = os.pread(self._index.fileno(), 8 * (stop - first), self._pointers + 8 * first)
        places = np.frombuffer(content, "<i8") // self.dtype.itemsize
        return np.append(places, self.tokens) if first + number > self.sentences else places

    def starts_between(self, low: int, high: int) -> Ints:
        """All places from `low` to `high`, both included, where a sentence starts, in order."""
        found = [np.empty(0, np.int64)]
        for first in range(self._sentence_at(low), self.sentences, _WINDOW):
            found.append(self.starts(first, min(_WINDOW, self.sentences - first)))
            if found[-1][-1] > high:
                break
        places = np.concatenate(found)
        return places[: np.searchsorted(places, high, "right")]

    def _sentence_at(self, place: int) -> int:
        """The first sentence that starts at `place` or later, or the number of sentences."""
        marked, places = self._marks
        mark = bisect_left(places, place)
        return bisect_left(range(self.sentences), place, marked[mark] + 1, marked[mark + 1], key=self._start)

    def _start(self, sentence: int) -> int:
        """As `starts(sentence, 1)[0]`, but faster."""
        content = os.pread(self._index.fileno(), 8, self._pointers + 8 * sentence)
        return int.from_bytes(content, "little") // self.dtype.itemsize

    @cached_property
    def _marks(self) -> tuple[list[int], list[int]]:
        """Some sentences, between -1 and the number of sentences, and where they start."""
        marked = np.unique(np.linspace(0, self.sentences - 1, _MARKS).astype(np.int64)).tolist()
        places = [self._start(sentence) for sentence in marked]
        if places != sorted(places):
            raise UsageError(f"{self.prefix}.idx: sentences are not in order; binarise the data again")
        return [-1, *marked, self.sentences], places

    def __reduce__(self) -> tuple[type["TokenFile"], tuple[Path]]:
        return TokenFile, (self.prefix,)  # a worker process opens the files itself


class Windows:
    """`none`: block b holds the tokens b·room to (b + 1)·room; only the last one may be shorter. As fairseq's."""

    def __init__(self, file: TokenFile, room: int) -> None:
        self._tokens, self._room = file.tokens, room
        self.count = -(-file.tokens // room)

    def spans(self, numbers: Ints) -> tuple[Ints, Ints]:
        starts = numbers * self._room
        return starts, np.minimum(self._tokens - starts, self._room)


class Sentences:
    """`eos`: block b holds the first `room` tokens of sentence b."""

    def __init__(self, file: TokenFile, room: int) -> None:
        self._file, self._room = file, room
        self.count = file.sentences

    def spans(self, numbers: Ints) -> tuple[Ints, Ints]:
        edges = np.array([self._file.starts(number, 2) for number in numbers.tolist()])
        return edges[:, 0], np.minimum(edges[:, 1] - edges[:, 0], self._room)


class CompleteBlocks:
    """`complete`: whole sentences, at most `room` tokens, found without packing all blocks before them.

    The stream is cut into chunks of `_CHUNK` blocks. Chunk c begins at the first sentence that starts at c·W or later,
    where W is the mean number of tokens of a chunk. It is divided into exactly `_CHUNK` blocks, each of which ends with
    the sentence whose end is nearest to an even share of the rest of the chunk. A sentence is cut only if no sentence
    end leaves all blocks of the chunk between 1 and `room` tokens. How full blocks get, and with it W, is measured on a
    sample of the sentences. Every token is in one block; the last chunk has up to twice as many blocks.

    fairseq packs greedily from the first sentence on, so its blocks differ, and it needs a pass over all sentences.
    """

    def __init__(self, file: TokenFile, room: int) -> None:
        self._file, self._room = file, room
        share = min(max(int(greedy_fill(file, room) * _SLACK), 2), room)
        self._width = share * _CHUNK
        self._chunks = max(file.tokens // self._width, 1)
        # How far a chunk's edge may move to the start of a sentence and leave its neighbours enough tokens, and room.
        self._reach = min(room, (_CHUNK - 1) * min(share - 1, room - share)) if self._chunks > 1 else 0
        self._last = -(-(file.tokens - (self._chunks - 1) * self._width) // share)
        self.count = (self._chunks - 1) * _CHUNK + self._last

    def spans(self, numbers: Ints) -> tuple[Ints, Ints]:
        chunks = np.minimum(numbers // _CHUNK, self._chunks - 1)
        within = numbers - chunks * _CHUNK
        chosen, inverse = np.unique(chunks, return_inverse=True)
        edges = self._edges(chosen, int(within.max()) + 1)
        starts = edges[within, inverse]
        return starts, edges[within + 1, inverse] - starts

    def _edges(self, chunks: Ints, steps: int) -> Ints:
        """Where the first `steps` blocks of C different chunks start and the last of them ends: (steps + 1, C)."""
        tokens = self._file.tokens
        low = chunks * self._width
        high = np.where(chunks == self._chunks - 1, tokens, low + self._width)
        near = [
            self._file.starts_between(*pair) for pair in zip(low.tolist(), (high + self._reach).tolist(), strict=True)
        ]
        # With sentinels, so that there always is a sentence before and one after.
        sentences = np.sort(np.concatenate([[-1], *near, [tokens + 1]]))

        def at_a_sentence(edges: Ints) -> Ints:
            starts = sentences[np.searchsorted(sentences, edges)]
            return np.where((edges > 0) & (edges < tokens) & (starts <= edges + self._reach), starts, edges)

        edge, end = at_a_sentence(low), at_a_sentence(high)
        blocks = np.where(chunks == self._chunks - 1, self._last, _CHUNK)
        edges = [edge]
        for step in range(1, steps + 1):
            left = np.maximum(blocks - step, 0)  # blocks after this one
            even = edge + (end - edge + left) // (left + 1)
            least, most = np.maximum(edge + 1, end - left * self._room), np.minimum(edge + self._room, end - left)
            nearest = np.searchsorted(sentences, even)
            after, before = sentences[nearest], sentences[nearest - 1]
            take_after = (after <= most) & ((before < least) | (after - even <= even - before))
            edge = np.where(take_after, after, np.where(before >= least, before, even))
            edge = np.where(left, edge, end)
            edges.append(edge)
        return np.stack(edges)


Blocks: TypeAlias = Windows | Sentences | CompleteBlocks


def greedy_fill(file: TokenFile, room: int) -> float:
    """Mean tokens per block of at most `room` when sentences are packed one after the other, measured on a sample."""
    count = min(int(_CHUNK * room * file.sentences / file.tokens) + 1, file.sentences)
    tokens = blocks = 0
    for first in np.unique(np.linspace(0, file.sentences - count, _SAMPLES).astype(np.int64)).tolist():
        starts = file.starts(first, count + 1)
        place = int(starts[0])
        while True:
            end = int(starts[np.searchsorted(starts, place + room, "right") - 1])
            if end == starts[-1]:
                break
            end = end if end > place else place + room
            tokens, blocks, place = tokens + end - place, blocks + 1, end
    return tokens / blocks if blocks else float(room)

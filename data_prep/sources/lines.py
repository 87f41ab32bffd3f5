"""Lines of files of any size in bounded memory; those that cannot be read are reported by number and byte."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from data_prep.sources import Piece, ReadErrors
from data_prep.sources.files import (
    LARGEST_DOCUMENT,
    READ_ERRORS,
    STDIN,
    TARS,
    files_in,
    kind,
    packing,
    read_block,
    whole,
)

LONGEST_LINE = LARGEST_DOCUMENT  # bytes
BLOCK = 1 << 20
MOST_REPORTS = 20  # a file of another kind may have a million bad lines: the others are only counted

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def line_pieces(path: Path, piece_size: int) -> list[Piece]:
    """Parts of a plain file, each from the first line start at or after a multiple of ``piece_size``.

    A compressed file, an archive, a pipe or standard input is one piece.
    """
    if path == STDIN or not path.is_file() or kind(path.name) in TARS:
        return whole(path)
    size = path.stat().st_size
    cuts = [0]
    with path.open("rb") as file:
        if packing(file):
            return whole(path)
        for position in range(piece_size, size, piece_size):
            if position > cuts[-1]:  # else it is inside a line that is longer than a piece
                file.seek(position - 1)
                while not file.readline(BLOCK).endswith(b"\n") and file.tell() < size:
                    pass
                if file.tell() == size:
                    break
                cuts.append(file.tell())
    return [Piece(path, end - start, start, end) for start, end in pairwise([*cuts, size])]


@dataclass
class Lines:
    """Iterates over the lines of a file that can be read, without their ends.

    A line that is not UTF-8, has a NUL byte or is longer than 32 MB is reported and left out, and reading continues
    with the next. At a truncated or damaged place, the iteration ends with what could be read of the last line.
    """

    file: BinaryIO  # positioned at `start`
    where: str  # what messages call it
    problems: ReadErrors
    start: int = 0  # bytes, like `end`
    end: int | None = None
    number: int = field(default=0, init=False)  # of the current line, from 1, counted from `start`
    offset: int = field(default=0, init=False)  # bytes before the current line, in the unpacked file
    next_offset: int = field(default=0, init=False)  # bytes before the next line
    _reports: int = field(default=0, init=False)
    _damaged: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.offset = self.next_offset = self.start

    def report(self, what: str) -> None:
        """Report the current line as one that cannot be read."""
        self._reports += 1
        if self._reports <= MOST_REPORTS:
            counted = f" after byte {self.start}" if self.start else ""
            self.problems.report(f"{self.where}: line {self.number}{counted} (byte {self.offset})", what)

    def __iter__(self) -> Iterator[str]:
        for raw, length in self._raw_lines():
            self.number += 1
            self.offset, self.next_offset = self.next_offset, self.next_offset + length
            if raw is None:
                self.report(f"longer than {LONGEST_LINE >> 20} MB")
            elif b"\0" in raw:
                utf16 = not self.offset and raw.startswith(_UTF16)
                self.report("UTF-16, convert it to UTF-8" if utf16 else "has a NUL byte, so it is not text")
            else:
                try:
                    yield (raw if self.offset else raw.removeprefix(_BOM)).decode()
                except UnicodeDecodeError as error:
                    self.report(f"not UTF-8 at byte {error.start + 1} of the line")
            if self.next_offset == self.end:
                break
        if not self.next_offset and not self._damaged:
            self.problems.report(self.where, "the file is empty")
        if self._reports > MOST_REPORTS:
            self.problems.report(self.where, f"{self._reports - MOST_REPORTS} more lines could not be read")

    def _raw_lines(self) -> Iterator[tuple[bytes | None, int]]:
        """Yield (line, its bytes with the end); None instead of a line that is too long to be held."""
        held, length = b"", 0
        try:
            while block := read_block(self.file, BLOCK):
                *complete, rest = block.split(b"\n")
                for line in complete:
                    length += len(line)
                    yield (held + line if length <= LONGEST_LINE else None), length + 1
                    held, length = b"", 0
                length += len(rest)
                held = held + rest if length <= LONGEST_LINE else b""
        except READ_ERRORS as error:
            self._damaged = True
            where = f"{self.where}: after line {self.number} (byte {self.next_offset})"
            self.problems.report(where, f"cut off or damaged ({error})")
        if length:
            yield (held if length <= LONGEST_LINE else None), length


def line_files(piece: Piece, suffixes: Set[str] | None, problems: ReadErrors) -> Iterator[tuple[str, Lines]]:
    """Yield (name, lines) of each file of a piece, see :func:`data_prep.sources.files.files_in`."""
    for where, name, file in files_in(piece, suffixes, problems):
        if piece.start:
            file.seek(piece.start)
        yield name, Lines(file, where, problems, piece.start, piece.end)

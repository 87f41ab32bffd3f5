"""Lines of files of any size in bounded memory; those that cannot be read are reported by number and byte."""

from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

from data_prep.sources import Piece, ReadErrors, files
from data_prep.sources.encodings import AsUtf8, likely_encoding

LONGEST_LINE = files.LARGEST_DOCUMENT  # bytes
BLOCK = 1 << 20
MOST_REPORTS = 20  # a file of another kind may have a million bad lines: the others are only counted

_BOM = b"\xef\xbb\xbf"


def line_pieces(path: Path, piece_size: int, after_blank: bool = False) -> list[Piece]:
    """Parts of a plain file, each from the first line start at or after a multiple of ``piece_size``.

    With ``after_blank``, parts start only after a blank line. A compressed file, an archive, a pipe or standard input
    is one piece.
    """
    if files.is_stream(path) or files.kind(path.name) in files.TARS:
        return files.whole(path)
    size = path.stat().st_size
    cuts = [0]
    with files.open_file(path) as file:
        if files.packing(file):
            return files.whole(path)
        for position in range(piece_size, size, piece_size):
            if position > cuts[-1]:  # else it is inside a line that is longer than a piece
                file.seek(position - 1)
                _find_line_start(file, after_blank)
                if file.tell() == size:
                    break
                cuts.append(file.tell())
    return [Piece(path, end - start, start, end) for start, end in pairwise([*cuts, size])]


def _find_line_start(file: BinaryIO, after_blank: bool) -> None:
    """Read up to the start of a line, or to the end of the file."""
    before = b""
    while part := file.readline(BLOCK):
        if part.endswith(b"\n") and (not after_blank or (before.endswith(b"\n") and not part.strip())):
            return
        before = part


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
    encoding: str | None = None  # of the file, if not UTF-8; positions are then those of its text in UTF-8
    number: int = field(default=0, init=False)  # of the current line, from 1, counted from `start`
    offset: int = field(default=0, init=False)  # bytes before the current line, in the unpacked file
    next_offset: int = field(default=0, init=False)  # bytes before the next line
    _reports: int = field(default=0, init=False)
    _damaged: bool = field(default=False, init=False)
    _ahead: bytes = field(default=b"", init=False)  # read, but not yet iterated over
    _block: bytes = field(default=b"", init=False)  # in which the current line ends

    def __post_init__(self) -> None:
        self.offset = self.next_offset = self.start
        if self.encoding:
            self.file = cast(BinaryIO, AsUtf8(self.file, self.encoding))

    def report(self, what: str, place: str = "") -> None:
        """Report the current line, or another `place` in the file, as one that cannot be read."""
        self._reports += 1
        if self._reports <= MOST_REPORTS:
            counted = f" after byte {self.start}" if self.start else ""
            byte = "" if self.encoding else f" (byte {self.offset})"
            self.problems.report(f"{self.where}: {place or f'line {self.number}{counted}{byte}'}", what)

    def report_others(self, what: str) -> None:
        """At the end of the file, report the number of those that were left out above."""
        if self._reports > MOST_REPORTS:
            self.problems.report(self.where, f"{self._reports - MOST_REPORTS} more {what} could not be read")

    def __iter__(self) -> Iterator[str]:
        for raw, length in self._raw_lines():
            self.number += 1
            self.offset, self.next_offset = self.next_offset, self.next_offset + length
            if raw is None:
                self.report(f"longer than {LONGEST_LINE >> 20} MB")
            elif b"\0" in raw:
                self.report(f"has a NUL byte, so it is not text{self._other_encoding()}")
            else:
                try:
                    yield (raw if self.offset else raw.removeprefix(_BOM)).decode()
                except UnicodeDecodeError as error:
                    at = f"UTF-8 at byte {error.start + 1} of the line"
                    self.report(f"not {self.encoding or at}{self._other_encoding()}")
            if self.next_offset == self.end:
                break
        if not self.next_offset and not self._damaged:
            self.problems.left_out["empty files"] += 1
        self.report_others("lines")

    def _other_encoding(self) -> str:
        """Which setting reads the text, if that can be told."""
        if self.problems.skip or self.encoding:
            return ""
        likely = likely_encoding(self._block)
        return f", but likely {likely}, which --encoding {likely} reads" if likely else " (for others, see --encoding)"

    def peek(self) -> bytes:
        """The first bytes, if they can be read; they stay to be read."""
        with suppress(*files.READ_ERRORS):
            self._ahead = self._ahead or files.read_block(self.file, BLOCK)
        return self._ahead

    def blocks(self) -> Iterator[bytes]:
        """The file in blocks of about 1 MB; raises one of ``READ_ERRORS`` where it is damaged."""
        while block := self._ahead or files.read_block(self.file, BLOCK):
            self._ahead, self._block = b"", block
            yield block

    def _raw_lines(self) -> Iterator[tuple[bytes | None, int]]:
        """Yield (line, its bytes with the end); None instead of a line that is too long to be held."""
        held, length = b"", 0
        try:
            for block in self.blocks():
                *complete, rest = block.split(b"\n")
                for line in complete:
                    length += len(line)
                    yield (held + line if length <= LONGEST_LINE else None), length + 1
                    held, length = b"", 0
                length += len(rest)
                held = held + rest if length <= LONGEST_LINE else b""
        except files.READ_ERRORS as error:
            self._damaged = True
            where = f"{self.where}: after line {self.number} (byte {self.next_offset})"
            self.problems.report(where, f"cut off or damaged ({files.fault(error)})")
        if length:
            yield (held if length <= LONGEST_LINE else None), length


def line_files(
    piece: Piece, suffixes: Set[str] | None, problems: ReadErrors, encoding: str | None = None
) -> Iterator[tuple[str, Lines]]:
    """Yield (name, lines) of each file of a piece, see :func:`data_prep.sources.files.files_in`."""
    for where, name, file in files.files_in(piece, suffixes, problems):
        if piece.start:
            file.seek(piece.start)
        yield name, Lines(file, where, problems, piece.start, piece.end, encoding)

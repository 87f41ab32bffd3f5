"""Text files in which every line is a paragraph; one document per file, or per 16 MB of a long one."""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from data_prep.corpus import Document, tidy
from data_prep.sources import Piece, ReadErrors
from data_prep.sources.files import STDIN, TARS, stem
from data_prep.sources.lines import line_files, line_pieces

SUFFIXES = frozenset({".txt", ".md"}) | TARS

# Many texts in one file must not become one document that is too large for a worker's memory.
PART = 16 << 20  # bytes


def pieces(path: Path) -> list[Piece]:
    """The parts of a plain file; one piece for any other."""
    return line_pieces(path, PART)


def documents(piece: Piece, problems: ReadErrors) -> Iterator[Document]:
    """One document per part of 16 MB: ``name``, ``name#2``, … however the file is compressed."""
    for name, lines in line_files(piece, SUFFIXES, problems):
        name = "stdin" if piece.path == STDIN else stem(name)
        for part, group in groupby(((lines.offset // PART, line) for line in lines), itemgetter(0)):
            # Other line ends than \n, such as those of old Macintosh files, end a paragraph, too.
            text = tidy(paragraph for _, line in group for paragraph in line.splitlines())
            yield Document(f"{name}#{part + 1}" if part else name, "text", name.replace("_", " "), text)

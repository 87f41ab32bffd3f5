"""Text files in which every line is a paragraph; one document per file, or per 16 MB of a long one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.corpus import Document, tidy
from data_prep.problems import Problems
from data_prep.sources import Piece
from data_prep.sources.archives import files_in
from data_prep.sources.files import STDIN, TARS, is_plain, size_of, stem, whole
from data_prep.sources.lines import Lines, line_pieces

SUFFIXES = frozenset({".txt", ".md"}) | TARS

# A dump of many texts in one file must not become one document that no worker can hold.
PART = 16 << 20  # bytes


def pieces(path: Path) -> list[Piece]:
    """The parts of a plain file; one piece for standard input, a compressed file or an archive."""
    return line_pieces(path, size_of(path), PART) if is_plain(path) else whole(path)


def documents(piece: Piece, problems: Problems) -> Iterator[Document]:
    """One document per part of 16 MB: ``name``, ``name#2``, … however the file is compressed."""
    for where, name, file in files_in(piece, SUFFIXES, problems):
        name = "stdin" if piece.path == STDIN else stem(name)
        if piece.start:
            file.seek(piece.start)
        lines = Lines(file, where, problems, piece.start, None if piece.end is None else piece.end - piece.start)
        paragraphs: list[str] = []
        part = piece.start // PART
        for line in lines:
            if lines.offset // PART > part:
                yield _document(name, part, paragraphs)
                paragraphs, part = [], lines.offset // PART
            # Other line ends than \n, such as those of old Macintosh files, end a paragraph, too.
            paragraphs += line.splitlines()
        if lines.next_offset > piece.start:
            yield _document(name, part, paragraphs)


def _document(name: str, part: int, paragraphs: list[str]) -> Document:
    return Document(f"{name}#{part + 1}" if part else name, "text", name.replace("_", " "), tidy(paragraphs))

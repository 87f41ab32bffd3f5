"""Text files in which every line is a paragraph.

A document is a file, 16 MB of a long one, or as a setting says what stands between blank lines, or a line.
"""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from data_prep.corpus import Document, paragraphs, tidy
from data_prep.sources import Piece, ReadErrors
from data_prep.sources.files import STDIN, TARS, stem, whole
from data_prep.sources.lines import Lines, line_files, line_pieces

SUFFIXES = frozenset({".txt", ".md"}) | TARS

# Many texts in one file must not become one document that is too large for a worker's memory.
PART = 16 << 20  # bytes


def pieces(path: Path, encoding: str | None = None, document_end: str | None = None) -> list[Piece]:
    """The parts of a plain file; one piece for any other, and for other encodings than UTF-8."""
    return whole(path) if encoding else line_pieces(path, PART, after_blank=document_end == "blank")


def documents(
    piece: Piece, problems: ReadErrors, encoding: str | None = None, document_end: str | None = None
) -> Iterator[Document]:
    """The documents of a piece, which end as ``document_end`` says, one of ``config.DOCUMENT_ENDS``.

    By default one per part of 16 MB: ``name``, ``name#2``, … however the file is compressed. Those that end at a blank
    line or with a line are called after the position of their first line: ``name:0``, ``name:1207``, …
    """
    for name, lines in line_files(piece, SUFFIXES, problems, encoding):
        name = "stdin" if piece.path == STDIN else stem(name)
        if document_end in ("blank", "line"):
            yield from _documents_in(lines, name, document_end)
            continue
        for part, group in groupby(((lines.offset // PART, line) for line in lines), itemgetter(0)):
            # The line ends of old Macintosh files end a paragraph, too.
            text = tidy(paragraph for _, line in group for paragraph in paragraphs(line))
            yield Document(f"{name}#{part + 1}" if part else name, "text", name.replace("_", " "), text)


def _documents_in(lines: Lines, name: str, document_end: str) -> Iterator[Document]:
    """The documents of a file that end at a blank line or with a line, or else after 16 MB."""
    held: list[str] = []
    start = 0
    for line in lines:
        if held and (document_end == "line" or not line.strip() or lines.offset - start >= PART):
            yield Document(f"{name}:{start}", "text", "", tidy(held))
            held = []
        if line.strip():
            start = start if held else lines.offset
            held += paragraphs(line)
    if held:
        yield Document(f"{name}:{start}", "text", "", tidy(held))

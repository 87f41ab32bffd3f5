"""Books, one a file, as in BookCorpus: text in hard-wrapped lines, or EPUB."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from data_prep.corpus import Document, join_wrapped, tidy
from data_prep.problems import Problems
from data_prep.sources import Piece
from data_prep.sources.archives import files_in
from data_prep.sources.epub import read_epub
from data_prep.sources.files import LARGEST_DOCUMENT, TARS, kind, stem, whole
from data_prep.sources.lines import Lines

SUFFIXES = frozenset({".txt", ".md", ".epub"}) | TARS

# Characters of the widest line that an editor or a transcriber wraps; some lines of tables and verse are wider.
WIDEST_WRAPPED = 120
WIDER_LINES = 0.1


def pieces(path: Path) -> list[Piece]:
    """One piece: a book is read as a whole, and archives cannot be read in parts."""
    return whole(path)


def documents(piece: Piece, problems: Problems) -> Iterator[Document]:
    """One document per book; a book of more than 32 MB of text is reported."""
    for where, name, file in files_in(piece, SUFFIXES, problems):
        if kind(name) == ".epub":
            book = read_epub(file, where, problems)
            if book is not None:
                title, paragraphs = book
                yield Document(stem(name), "books", title or _title(name), tidy(paragraphs))
        else:
            lines = _held(file, where, problems)
            if lines is not None:
                yield Document(stem(name), "books", _title(name), tidy(unwrapped(lines)))


def unwrapped(lines: list[str]) -> Iterable[str]:
    """Paragraphs of a text: an empty line ends one, and so does each line of a text that is not hard-wrapped."""
    widths = [len(line) for line in lines if line.strip()]
    if sum(width > WIDEST_WRAPPED for width in widths) > WIDER_LINES * len(widths):
        return lines
    return join_wrapped(lines)


def _title(name: str) -> str:
    return stem(name).replace("_", " ")


def _held(file: BinaryIO, where: str, problems: Problems) -> list[str] | None:
    """All lines; None if they are too many, or if there is nothing in the file."""
    lines = Lines(file, where, problems)
    held: list[str] = []
    for line in lines:
        if lines.next_offset > LARGEST_DOCUMENT:
            lines.report(f"the book is longer than {LARGEST_DOCUMENT >> 20} MB, split it; it is left out")
            return None
        held += line.splitlines() or [""]
    return held if lines.next_offset else None

"""Books, one per file, as in BookCorpus: text in hard-wrapped lines, or EPUB."""

from collections.abc import Iterable, Iterator

from data_prep.corpus import Document, join_wrapped, tidy
from data_prep.sources import Piece, ReadErrors
from data_prep.sources.epub import read_epub
from data_prep.sources.files import LARGEST_DOCUMENT, TARS, files_in, kind, stem, whole
from data_prep.sources.lines import Lines

SUFFIXES = frozenset({".txt", ".md", ".epub"}) | TARS
pieces = whole

# Characters of the widest line that an editor or a transcriber wraps; a few lines of tables and verse are wider.
WIDEST_WRAPPED = 120
WIDER_LINES = 0.1


def documents(piece: Piece, problems: ReadErrors, encoding: str | None = None) -> Iterator[Document]:
    """One document per book; a book of more than 32 MB of text is reported and left out."""
    for where, name, file in files_in(piece, SUFFIXES, problems):
        book = (
            read_epub(file, where, problems)
            if kind(name) == ".epub"
            else _read_text(Lines(file, where, problems, encoding=encoding))
        )
        if book is not None:
            title, paragraphs = book
            yield Document(stem(name), "books", title or stem(name).replace("_", " "), tidy(paragraphs))


def _read_text(lines: Lines) -> tuple[str, Iterable[str]] | None:
    """As `read_epub`. An empty line ends a paragraph, and so does each line of a text that is not hard-wrapped."""
    found: list[str] = []
    for line in lines:
        if lines.next_offset > LARGEST_DOCUMENT:
            lines.report(f"the book is longer than {LARGEST_DOCUMENT >> 20} MB, split it; it is left out")
            return None
        found += line.splitlines() or [""]
    if not lines.next_offset:  # an empty file
        return None
    widths = [len(line) for line in found if line.strip()]
    wrapped = sum(width > WIDEST_WRAPPED for width in widths) <= WIDER_LINES * len(widths)
    return "", join_wrapped(found) if wrapped else found

"""Books, one per file, as in BookCorpus: text in hard-wrapped lines, or EPUB."""

from collections.abc import Iterable, Iterator

from data_prep.corpus import Document, join_wrapped, tidy
from data_prep.read_errors import ReadErrors
from data_prep.sources import Piece
from data_prep.sources.epub import read_epub
from data_prep.sources.files import LARGEST_DOCUMENT, TARS, files_in, kind, stem, whole
from data_prep.sources.lines import Lines

SUFFIXES = frozenset({".txt", ".md", ".epub"}) | TARS

# Characters of the widest line that an editor or a transcriber wraps; a few lines of tables and verse are wider.
WIDEST_WRAPPED = 120
WIDER_LINES = 0.1

pieces = whole  # a book is read as a whole


def documents(piece: Piece, problems: ReadErrors) -> Iterator[Document]:
    """One document per book; a book of more than 32 MB of text is reported and left out."""
    for where, name, file in files_in(piece, SUFFIXES, problems):
        title = stem(name).replace("_", " ")
        if kind(name) == ".epub":
            book = read_epub(file, where, problems)
            if book is not None:
                yield Document(stem(name), "books", book[0] or title, tidy(book[1]))
        else:
            lines = _all_lines(Lines(file, where, problems))
            if lines is not None:
                yield Document(stem(name), "books", title, tidy(_unwrapped(lines)))


def _unwrapped(lines: list[str]) -> Iterable[str]:
    """Paragraphs of a text: an empty line ends one, and so does each line of a text that is not hard-wrapped."""
    widths = [len(line) for line in lines if line.strip()]
    if sum(width > WIDEST_WRAPPED for width in widths) > WIDER_LINES * len(widths):
        return lines
    return join_wrapped(lines)


def _all_lines(lines: Lines) -> list[str] | None:
    """The lines of a book; None if it is too long or the file is empty."""
    found: list[str] = []
    for line in lines:
        if lines.next_offset > LARGEST_DOCUMENT:
            lines.report(f"the book is longer than {LARGEST_DOCUMENT >> 20} MB, split it; it is left out")
            return None
        found += line.splitlines() or [""]
    return found if lines.next_offset else None

"""Articles in wikiextractor's format: ``<doc id="…" url="…" title="…">``, paragraphs, ``</doc>``."""

import html
import re
from collections.abc import Iterator

from data_prep.corpus import Document, tidy
from data_prep.sources import Piece, ReadErrors
from data_prep.sources.files import LARGEST_DOCUMENT, whole
from data_prep.sources.lines import Lines, line_files

SUFFIXES = None  # wikiextractor calls its files wiki_00
pieces = whole  # they are small

_START = re.compile(r'<doc id="([^"]*)" .*?title="(.*)">$')

# What wikiextractor escapes in a text; other entities in it are the author's.
_ESCAPED = re.compile("&(?:amp|lt|gt|quot|#x27|#39);")


def documents(piece: Piece, problems: ReadErrors, encoding: str | None = None) -> Iterator[Document]:
    """One document per article of a file, or of all files in a tar archive."""
    for _, lines in line_files(piece, SUFFIXES, problems, encoding):
        yield from _articles(lines)


def _articles(lines: Lines) -> Iterator[Document]:
    header: re.Match[str] | None = None
    paragraphs: list[str] = []
    size = 0
    for line in lines:
        line = line.rstrip("\r")
        start = _START.match(line)
        if start is not None:
            if header is not None:
                lines.report(f"article {header[1]} has no </doc> before the next one; its lines so far are kept")
                yield _article(header, paragraphs)
            header, paragraphs, size = start, [], 0
        elif header is None:
            if line.strip():
                lines.report(f"expected a <doc …> line, found {line[:60]!r}; for other text see --source text")
        elif line == "</doc>":
            yield _article(header, paragraphs)
            header = None
        elif size <= LARGEST_DOCUMENT:
            paragraphs.append(line)
            size += len(line) + 1
            if size > LARGEST_DOCUMENT:
                lines.report(f"article {header[1]} is longer than {LARGEST_DOCUMENT >> 20} MB; the rest is left out")
    if header is not None:
        lines.report(f"article {header[1]} has no </doc> line, is the file cut off? Its lines so far are kept")
        yield _article(header, paragraphs)


def _article(header: re.Match[str], paragraphs: list[str]) -> Document:
    text = _ESCAPED.sub(lambda entity: html.unescape(entity[0]), tidy(paragraphs))
    return Document(header[1], "doc", html.unescape(header[2]), text)

"""JSON lines: an object per line, with a column of text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from data_prep.corpus import Document, tidy
from data_prep.problems import Problems
from data_prep.sources import Piece
from data_prep.sources.archives import files_in
from data_prep.sources.files import TARS, is_plain, size_of, stem, whole
from data_prep.sources.lines import Lines, line_pieces

SUFFIXES = frozenset({".jsonl", ".json", ".ndjson"}) | TARS

PIECE = 64 << 20  # bytes


def pieces(path: Path) -> list[Piece]:
    """Parts of 64 MB of a plain file; one piece for a compressed file, an archive or standard input."""
    return line_pieces(path, size_of(path), PIECE) if is_plain(path) else whole(path)


def documents(piece: Piece, problems: Problems, text_column: str | None = None) -> Iterator[Document]:
    """One document per line; line ends in its text end paragraphs.

    Its id and title are those of the object, if it has them. The id is otherwise the name of the file and the
    position of the line in it, in bytes.

    Args:
        piece: from :func:`pieces`.
        problems: gets the lines that are no such object.
        text_column: the key of the text; ``text`` by default.
    """
    column = text_column or "text"
    for where, name, file in files_in(piece, SUFFIXES, problems):
        if piece.start:
            file.seek(piece.start)
        lines = Lines(file, where, problems, piece.start, None if piece.end is None else piece.end - piece.start)
        for line in lines:
            if line and not line.isspace():
                document = _document(line, column, stem(name), lines)
                if document is not None:
                    yield document


def _document(line: str, column: str, name: str, lines: Lines) -> Document | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        lines.report(f"not JSON ({error}); an object per line is expected")
        return None
    if not isinstance(row, dict):
        lines.report(f"a JSON {type(row).__name__}; an object per line is expected")
        return None
    if column not in row:
        lines.report(f"has no {column!r}, only {', '.join(map(repr, row)) or 'nothing'}; see --text-column")
        return None
    text = row[column]
    if not isinstance(text, str | None):
        lines.report(f"{column!r} is not text but {type(text).__name__}; see --text-column")
        return None
    key, title = row.get("id"), row.get("title")
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        key = f"{name}:{lines.offset}"
    document = Document(str(key), "jsonl", title if isinstance(title, str) else "", tidy((text or "").splitlines()))
    bad = bad_characters(document)
    if bad:
        lines.report(bad)
        return None
    return document


def bad_characters(document: Document) -> str:
    """What a document has that no file of text can have; empty if nothing. JSON can write both as ``\\\\u``."""
    everything = f"{document.id}{document.title}{document.text}"
    if "\0" in everything:
        return "has a NUL character, so it is not text"
    if not everything.isascii():
        try:
            everything.encode()
        except UnicodeEncodeError as error:
            return f"has half a character ({everything[error.start]!r})"
    return ""

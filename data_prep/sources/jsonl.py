"""JSON lines: an object per line, with a column of text."""

import json
from collections.abc import Iterator
from pathlib import Path

from data_prep.corpus import Document, tidy
from data_prep.sources import Piece, ReadErrors
from data_prep.sources.files import TARS, stem
from data_prep.sources.lines import line_files, line_pieces

SUFFIXES = frozenset({".jsonl", ".json", ".ndjson"}) | TARS

PIECE = 64 << 20  # bytes


def pieces(path: Path) -> list[Piece]:
    """Parts of 64 MB of a plain file; one piece for any other."""
    return line_pieces(path, PIECE)


def documents(piece: Piece, problems: ReadErrors, text_column: str | None = None) -> Iterator[Document]:
    """One document per line, whose text has the key ``text_column``, or ``text``; its line ends end paragraphs.

    Its id and title are those of the object, if it has them. The id is otherwise the name of the file and the
    position of the line in it, in bytes.
    """
    for name, lines in line_files(piece, SUFFIXES, problems):
        for line in lines:
            if line and not line.isspace():
                try:
                    yield _document(line, text_column or "text", f"{stem(name)}:{lines.offset}")
                except ValueError as error:
                    lines.report(str(error))


def _document(line: str, column: str, name: str) -> Document:
    """The document of one line, called ``name`` if it has no id; raises ValueError if it cannot be used."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}); an object per line is expected") from error
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}; an object per line is expected")
    if column not in row:
        raise ValueError(f"has no {column!r}, only {', '.join(map(repr, row)) or 'nothing'}; see --text-column")
    key, title, text = row.get("id"), row.get("title"), row[column]
    if not isinstance(text, str | None):
        raise ValueError(f"{column!r} is not text but {type(text).__name__}; see --text-column")
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        key = name
    title = title if isinstance(title, str) else ""
    return row_document("jsonl", str(key), title, text or "")


def row_document(source: str, name: str, title: str, text: str) -> Document:
    r"""The document of a row; raises ValueError for characters that only JSON's ``\u…`` or binary data can have."""
    everything = f"{name}{title}{text}"
    if "\0" in everything:
        raise ValueError("has a NUL character, so it is not text")
    try:
        everything.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has half a character ({everything[error.start]!r})") from error
    return Document(name, source, title, tidy(text.splitlines()))

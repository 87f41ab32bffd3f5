"""Tables in Parquet or Arrow files (IPC files, Feather, and streams): a document per row.

This is what Hugging Face's data sets are kept in, Parquet for download and Arrow streams in the local cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.corpus import Document, tidy
from data_prep.problems import Problems
from data_prep.sources import Piece
from data_prep.sources.arrow_files import opened
from data_prep.sources.files import LARGEST_DOCUMENT, printable, stem
from data_prep.sources.jsonl import bad_characters

SUFFIXES = frozenset({".parquet", ".arrow", ".feather", ".ipc"})

PIECE = 64 << 20  # bytes, unpacked

_ERRORS = (pa.ArrowException, OSError)
_BINARY = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}


def pieces(path: Path) -> list[Piece]:
    """Runs of row groups (Parquet) or record batches (Arrow files) of about 64 MB; a stream is one piece."""
    size = path.stat().st_size
    try:
        with opened(path) as table:
            sizes = table.sizes
    except _ERRORS:
        return [Piece(path, size)]  # reading it reports the reason
    found: list[Piece] = []
    start = held = 0
    for end, part in enumerate(sizes, 1):
        held += part
        if held >= PIECE or end == len(sizes):
            found.append(Piece(path, size * held // max(1, sum(sizes)), start, end))
            start, held = end, 0
    return found or [Piece(path, size)]


def documents(piece: Piece, problems: Problems, text_column: str | None = None) -> Iterator[Document]:
    """One document per row; line ends in its text end paragraphs, and a missing text is an empty one.

    Its id and title are those of the columns of these names, if there are any. The id is otherwise made of the
    name of the file and the numbers of the row group or record batch and of the row in it.

    Args:
        piece: from :func:`pieces`.
        problems: gets files without such a column, and rows that cannot be read.
        text_column: name of the column; by default ``text``, or else the only column of strings.
    """
    where = printable(str(piece.path))
    try:
        with opened(piece.path) as table:
            columns = _columns(table.schema, text_column)
            rows = 0
            for part in range(piece.start, len(table.sizes) if piece.end is None else piece.end):
                row = 0
                where = f"{piece.path}: {table.part_name} {part}"
                for batch in table.batches(part, [name for name in columns if name]):
                    for key, title, text in zip(*(_values(batch, name) for name in columns), strict=True):
                        try:
                            name = f"{stem(piece.path.name)}:{part}:{row}"
                            document = _document(_text(key) or name, _text(title), text)
                        except ValueError as error:
                            problems.report(f"{where}, row {row}", str(error))
                        else:
                            yield document
                        row += 1
                rows += row
            if not rows:
                problems.report(where, "the table has no rows")
    except _NoColumn as error:
        problems.report(where, str(error))
    except _ERRORS as error:
        problems.report(where, f"cannot be read ({' '.join(str(error).split())})")


class _NoColumn(Exception):
    pass


def _columns(schema: pa.Schema, wanted: str | None) -> tuple[str | None, str | None, str]:
    """Names of the columns of the id (strings or integers), the title and the text; None where there is none."""
    types = {field.name: field.type for field in schema}
    texts = [name for name, type_ in types.items() if _is_text(type_)]
    column = wanted or ("text" if "text" in texts or len(texts) != 1 else texts[0])
    if column not in texts:
        found = ", ".join(f"{name} ({type_})" for name, type_ in types.items()) or "none"
        raise _NoColumn(f"no column {column!r} of text; choose one of its columns with --text-column: {found}")
    has_id = "id" in types and (pa.types.is_integer(types["id"]) or "id" in texts)
    return "id" if has_id else None, "title" if "title" in texts else None, column


def _is_text(type_: pa.DataType) -> bool:
    return (type_.value_type if pa.types.is_dictionary(type_) else type_) in _BINARY


def _values(batch: pa.RecordBatch, name: str | None) -> list[Any]:
    """The values of one column: bytes, integers or None."""
    if name is None:
        return [None] * batch.num_rows
    column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        column.validate()
        column = column.dictionary_decode()
    # As bytes, so that one row that is not UTF-8 does not take the others with it.
    column = column.cast(_BINARY.get(column.type, column.type))
    column.validate(full=True)  # a damaged file must not make Arrow read outside the buffers
    values: list[Any] = column.to_pylist()
    return values


def _document(key: str, title: str, text: bytes | None) -> Document:
    """Raises ValueError if the text cannot be used."""
    if text is not None and len(text) > LARGEST_DOCUMENT:
        raise ValueError(f"longer than {LARGEST_DOCUMENT >> 20} MB")
    document = Document(key, "parquet", title, tidy(_text(text).splitlines()))
    bad = bad_characters(document)
    if bad:
        raise ValueError(bad)
    return document


def _text(value: bytes | int | None) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else "" if value is None else str(value)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1} of a value") from error

"""Tables in Parquet or Arrow files (IPC files, Feather, and streams): a document per row.

Hugging Face's data sets are kept in these: Parquet for download, Arrow streams in the local cache.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.corpus import Document
from data_prep.sources import Piece, ReadErrors
from data_prep.sources.files import LARGEST_DOCUMENT, is_remote, open_file, printable, size_of, stem
from data_prep.sources.jsonl import row_document, value_at

SUFFIXES = frozenset({".parquet", ".arrow", ".feather", ".ipc"})

PIECE = 64 << 20  # bytes, unpacked
BATCH = 16 << 20  # bytes of one batch of rows, unpacked, on average
BATCH_ROWS = 1024

_ERRORS = (pa.ArrowException, OSError)
# The type as which a type of text is read, so that one row that is not UTF-8 does not take the others with it.
_BINARY = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
_VIEWS = (pa.ListViewType, pa.LargeListViewType)  # Arrow cannot cast what is in these
_LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
# Of an open table: its columns, what its parts are called, their sizes in bytes, and the batches of a part.
_Table = tuple[pa.Schema, str, list[int], Callable[[int, list[str]], Iterable[pa.RecordBatch]]]


def pieces(path: Path, text_column: str | None = None) -> list[Piece]:
    """Runs of row groups (Parquet) or record batches (Arrow files) of about 64 MB; a stream is one piece."""
    size = size_of(path)
    found: list[Piece] = []
    start = held = 0
    with suppress(*_ERRORS), _opened(path) as (_, _, sizes, _):  # reading the file reports the reason
        for end, part in enumerate(sizes, 1):
            held += part
            if held >= PIECE or end == len(sizes):
                found.append(Piece(path, size * held // max(1, sum(sizes)), start, end))
                start, held = end, 0
    return found or [Piece(path, size)]


def documents(piece: Piece, problems: ReadErrors, text_column: str | None = None) -> Iterator[Document]:
    """One document per row; line ends in its text end paragraphs, and a missing text is an empty one.

    The text is in ``text_column``, by default ``text``, or else the only column of strings besides ``id`` and
    ``title``; ``a.b`` is the field ``b`` of the column ``a``, and each text of a list ends a paragraph. A map is a list
    of ``key`` and ``value``. Id and title are in the columns of these names, if there are any. The id is otherwise the
    name of the file and the numbers of the row's group or batch and in it.
    """
    wrong = f"no column {text_column or 'text'!r} of text; choose one of its columns with --text-column"
    for where, name, (key, title, value) in rows(piece, problems, lambda schema: _columns(schema, text_column), wrong):
        try:
            text = as_text(value)
            if len(text) > LARGEST_DOCUMENT:
                raise ValueError(f"longer than {LARGEST_DOCUMENT >> 20} MB")
            yield row_document("parquet", as_text(key) or name, as_text(title), text)
        except ValueError as error:
            problems.report(where, str(error))


def rows(
    piece: Piece, problems: ReadErrors, choose: Callable[[pa.Schema], Sequence[str | None] | None], wrong: str
) -> Iterator[tuple[str, str, Sequence[Any]]]:
    """Where each row is, a name for it, and its values in the columns that ``choose`` names, None for a missing one.

    ``wrong`` is reported, with the columns that there are, if it chooses none.
    """
    where = printable(str(piece.path))
    count = 0
    try:
        with _opened(piece.path) as (schema, part_name, sizes, batches_of):
            columns = choose(schema)
            if columns is None:
                found = ", ".join(f"{name} ({type_})" for name, type_ in fields(schema, lists=True)) or "none"
                problems.report(where, f"{wrong}: {found}")
                return
            names = [_keys(schema, name)[0] for name in columns if name]
            for part in range(piece.start, len(sizes) if piece.end is None else piece.end):
                where = f"{piece.path}: {part_name} {part}"
                batches = (zip(*(_values(b, n) for n in columns), strict=True) for b in batches_of(part, names))
                for row, values in enumerate(chain.from_iterable(batches)):
                    count += 1
                    yield f"{where}, row {row}", f"{stem(piece.path.name)}:{part}:{row}", values
            if not count:
                problems.left_out["empty files"] += 1
    except _ERRORS as error:
        problems.report(where, f"cannot be read ({' '.join(str(error).split())})")


@contextmanager
def _opened(path: Path) -> Iterator[_Table]:
    """Open a table of any kind, recognized by its first bytes; raises one of ``_ERRORS`` if it cannot be read."""
    size = path.stat().st_size
    with open_file(path) as file:
        start = file.read(6)
    if start.startswith(b"PAR1"):
        # Without the buffer, Parquet reads all pages of a column of a row group at once, however large that is.
        with open_file(path) as source, pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False) as parquet:
            groups = [parquet.metadata.row_group(number) for number in range(parquet.metadata.num_row_groups)]
            sizes = [group.total_byte_size for group in groups]
            rows = [_batch_rows(group.total_byte_size, group.num_rows) for group in groups]
            read = functools.partial(parquet.iter_batches, use_threads=False)
            yield parquet.schema_arrow, "row group", sizes, lambda part, names: read(rows[part], [part], names)
    elif start == b"ARROW1":
        with open_file(path) if is_remote(path) else pa.memory_map(os.fsencode(path)) as mapped:
            reader = pa.ipc.open_file(mapped)
            sizes = [size // max(1, reader.num_record_batches)] * reader.num_record_batches
            yield reader.schema, "record batch", sizes, lambda part, names: _sliced([reader.get_batch(part)])
    elif start.startswith(b"\xff\xff\xff\xff"):
        with open_file(path) as stream, pa.ipc.open_stream(stream) as reader:
            yield reader.schema, "stream", [size], lambda part, names: _sliced(reader)
    else:
        raise OSError("neither Parquet nor Arrow" if start else "the file is empty")


def _sliced(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = _batch_rows(batch.nbytes, batch.num_rows)
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _batch_rows(size: int, rows: int) -> int:
    """Rows of one batch, of ``rows`` that take ``size`` bytes."""
    return max(1, min(BATCH_ROWS, BATCH * rows // max(1, size)))


def _columns(schema: pa.Schema, wanted: str | None) -> tuple[str | None, str | None, str] | None:
    """Names of the columns of the id (strings or integers), the title and the text; None without a text."""
    values = {field.name: _without_dictionary(field.type) for field in schema}
    texts = [name for name, type_ in values.items() if type_ in _BINARY]
    others = [name for name in texts if name not in ("id", "title")]
    column = wanted or ("text" if "text" in values or len(others) != 1 else others[0])
    if not _is_text(_as_bytes(pa.struct(list(schema))), _keys(schema, column)):
        return None
    has_id = "id" in texts or ("id" in values and pa.types.is_integer(schema.field("id").type))
    return "id" if has_id else None, "title" if "title" in texts else None, column


def _keys(schema: pa.Schema, name: str) -> list[str]:
    """A column, and the fields in it, that a name such as ``a.b`` means."""
    return [name] if name in schema.names else name.split(".")


def _is_text(type_: pa.DataType, keys: list[str]) -> bool:
    """Whether there are texts, or nothing but nulls, under keys in keys of a type from `_as_bytes`."""
    while isinstance(type_, _LISTS + _VIEWS):
        type_ = type_.value_type
    if not keys or not pa.types.is_struct(type_):
        return not keys and (is_binary(type_) or type_ in _BINARY or pa.types.is_null(type_))
    place = type_.get_field_index(keys[0])
    return place >= 0 and _is_text(type_.field(place).type, keys[1:])


def fields(
    columns: pa.Schema | pa.StructType, prefix: str = "", lists: bool = False
) -> Iterator[tuple[str, pa.DataType]]:
    """The names and types of columns, and as ``a.b`` those of the fields in them, with ``lists`` in those of lists."""
    for field in columns:
        type_ = _without_map(field.type) if lists else field.type
        while lists and isinstance(type_, _LISTS + _VIEWS):
            type_ = _without_map(type_.value_type)
        inner = pa.types.is_struct(type_) and type_.num_fields
        yield from fields(type_, f"{prefix}{field.name}.", lists) if inner else [(prefix + field.name, field.type)]


def is_binary(type_: pa.DataType) -> bool:
    """Whether the values of a type are bytes, which need be no text."""
    return type_ in _BINARY.values()


def _without_dictionary(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _without_map(type_: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct([type_.key_field, type_.item_field])) if pa.types.is_map(type_) else type_


def _as_bytes(type_: pa.DataType) -> pa.DataType:
    """A type with bytes for texts, values for dictionaries, and large lists for lists and maps, but not in views."""
    type_ = _without_map(_without_dictionary(type_))
    if isinstance(type_, _LISTS):
        return pa.large_list(type_.value_field.with_type(_as_bytes(type_.value_type)))
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in type_])
    return _BINARY.get(type_, type_)


def _values(batch: pa.RecordBatch, name: str | None) -> list[Any]:
    """The values of a column: bytes, integers or None, or lists of such."""
    if name is None:
        return [None] * batch.num_rows
    column, *keys = _keys(batch.schema, name)
    values = batch.column(column)
    values.validate()
    values = values.cast(_as_bytes(values.type))
    values.validate(full=True)  # a damaged file must not make Arrow read outside the buffers
    return [value_at(value, keys) for value in values.to_pylist()]


def as_text(value: Any) -> str:
    """A value of a column as text, that of a list as paragraphs; raises ValueError for bytes that are not UTF-8."""
    if isinstance(value, list):
        return "\n".join(map(as_text, value))
    try:
        return value.decode() if isinstance(value, bytes) else "" if value is None else str(value)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1} of a value") from error

"""Tables of documents that may be larger than memory: checked, cut into windows of rows, read from any row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.io.shards import Done
from linformer_fairseq.tables import SUFFIXES, check_columns, read_rows

BATCH_ROWS = 1024  # read at a time
WINDOW_CHARACTERS = 4 << 20  # at most, unless a single document is longer
Window = tuple[int, int]  # its first row, and the one after its last


@dataclass(frozen=True)
class Documents:
    """Files with the same columns."""

    files: tuple[Path, ...]  # in the order of their rows
    text: tuple[str, ...]  # one or two columns of text
    keep: tuple[str, ...] = ()  # columns to carry over to the output
    quoted: bool = False  # whether `"` encloses fields of a TSV file

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        return list(dict.fromkeys((*self.text, *self.keep)))

    def check(self) -> None:
        """Check the columns of the Parquet files.

        Raises:
            UsageError: a missing column, a text column of another type, or files whose types differ.
        """
        first: list[pa.DataType] = []
        for path in self.files:
            types = dict.fromkeys(self.columns, pa.string())
            if path.suffix == ".parquet":
                with _parquet(path) as file:
                    schema = file.schema_arrow
                check_columns(path, schema.names, self.columns)
                types = {name: schema.field(name).type for name in self.columns}
                for name in self.text:
                    if not _is_text(types[name]):
                        raise UsageError(
                            f"{path}: column {name} has the type {types[name]}, not text; --text-column must name a "
                            "column of strings"
                        )
            kept = [types[name] for name in self.keep]
            first = first or kept
            if kept != first:
                raise UsageError(
                    f"{path}: the columns to keep have other types than in {self.files[0]} "
                    f"({', '.join(map(str, kept))}, not {', '.join(map(str, first))}); convert them, or leave them out "
                    "of --keep-columns"
                )


def cut_windows(documents: Documents, rows: int, folder: Path) -> Done:
    """Cut documents into windows, and copy other formats than Parquet, so that rows can be read from anywhere.

    Args:
        documents: to be read once, to their end.
        rows: of a window, at most; one with `WINDOW_CHARACTERS` ends earlier.
        folder: for the copies.

    Returns:
        `windows`, and `files`, the Parquet files with all rows.

    Raises:
        UsageError: content that cannot be read, or no rows.
    """
    windows: list[Window] = []
    files = []
    start = end = size = 0
    for number, path in enumerate(documents.files):
        copy = None if path.suffix == ".parquet" else folder / f"input-{number:06}.parquet"
        for batch in _parquet_batches(path, documents.text) if copy is None else _copied(documents, path, copy):
            for characters in _characters(batch, documents.text):
                if end - start == rows or (end > start and size + characters > WINDOW_CHARACTERS):
                    windows.append((start, end))
                    start, size = end, 0
                end, size = end + 1, size + characters
        files.append(copy or path)
    if not end:
        raise UsageError(f"{', '.join(map(str, documents.files))}: no rows; there is nothing to encode")
    return Done({"windows": [*windows, (start, end)], "files": list(map(str, files))})


class RowReader:
    """Reads windows of Parquet files; in ascending order, each row is decoded once.

    Args:
        documents: the columns.
        files: made by `cut_windows`.
    """

    def __init__(self, documents: Documents, files: Sequence[str]) -> None:
        self._documents = documents
        self._files = [Path(file) for file in files]
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None
        self._position = -1  # of the first row of `_rest`, or of the next batch

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows `start` to `stop`, the last one excluded."""
        if not 0 <= self._position <= start:
            self._batches, self._rest, self._position = self._batches_from(start), None, start
        taken = []
        while self._position < stop:
            batch = next(self._batches) if self._rest is None else self._rest
            first, last = max(0, start - self._position), min(batch.num_rows, stop - self._position)
            if first < last:
                taken.append(batch.slice(first, last - first))
            self._rest = batch.slice(last) if last < batch.num_rows else None
            self._position += last
        return pa.Table.from_batches(taken)

    def _batches_from(self, start: int) -> Iterator[pa.RecordBatch]:
        """All rows from row `start`, with the same schema whatever the file."""
        only_text = set(self._documents.text) - set(self._documents.keep)
        for path in self._files:
            with _parquet(path) as file:
                rows = file.metadata.num_rows
            if start < rows:
                for batch in _parquet_batches(path, self._documents.columns, start):
                    columns = {name: batch.column(name) for name in self._documents.columns}
                    yield pa.RecordBatch.from_pydict(columns | {name: _as_strings(columns[name]) for name in only_text})
            start = max(0, start - rows)


def find_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Files, and the Parquet files below folders, in the order of their names; hidden ones are left out.

    Raises:
        UsageError: no such file, none in a folder, or one of another format.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = (p for p in path.rglob("*.parquet") if not any(x[0] == "." for x in p.relative_to(path).parts))
            found = sorted(below)
            if not found:
                raise UsageError(f"--input {path}: no .parquet files in this folder; name the files themselves")
            files += found
        elif path.suffix not in SUFFIXES:
            raise UsageError(f"--input {path}: its name must end with one of {', '.join(SUFFIXES)}")
        elif not path.is_file():
            raise UsageError(f"--input {path}: no such file or folder")
        else:
            files.append(path)
    return tuple(files)


def texts_of(rows: pa.Table, columns: Sequence[str]) -> list[tuple[str, ...] | None]:
    """The texts of each row, each run of white space as one space; None for a row that lacks one.

    Raises:
        UsageError: a text that is not UTF-8.
    """
    found = []
    for name in columns:
        try:
            found.append([" ".join(text.split()) if text else "" for text in rows.column(name).to_pylist()])
        except UnicodeDecodeError as error:
            raise UsageError(f"column {name}: a text is not UTF-8 ({error}); write the file again") from error
    return [row if all(row) else None for row in zip(*found, strict=True)]


def _copied(documents: Documents, path: Path, copy: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file and copy them to a Parquet file; all columns are strings."""
    schema = pa.schema([(name, pa.string()) for name in documents.columns])
    rows = (row for _, row in read_rows(path, documents.columns, quoted=documents.quoted))
    with replace_when_done(copy) as partial, pq.ParquetWriter(partial, schema) as writer:
        while held := list(islice(rows, BATCH_ROWS)):
            batch = pa.RecordBatch.from_pylist(held, schema)
            writer.write_batch(batch)
            yield batch


def _parquet_batches(path: Path, columns: Sequence[str], start: int = 0) -> Iterator[pa.RecordBatch]:
    with _parquet(path) as file:
        groups = list(range(file.metadata.num_row_groups))
        while groups and start >= (rows := file.metadata.row_group(groups[0]).num_rows):
            start -= rows
            groups.pop(0)
        try:
            for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(columns), use_threads=False):
                yield batch.slice(start)
                start -= min(start, batch.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{path}: damaged ({error}); make it again") from error


def _characters(batch: pa.RecordBatch, text: Sequence[str]) -> list[int]:
    """Characters of each row's texts."""
    lengths = (pc.fill_null(pc.utf8_length(_as_strings(batch.column(name))), 0).to_pylist() for name in text)
    return [sum(row) for row in zip(*lengths, strict=True)]


def _as_strings(column: pa.Array) -> pa.Array:
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return plain.cast(pa.large_string())


def _is_text(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner))


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        # Without the buffer, all pages of a column of a row group are read at once, however large that is.
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not a Parquet file ({error}); name another --input") from error

"""Documents from files, in their order, a window of rows at a time: what is in memory does not grow with the input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from linformer_fairseq.errors import UsageError
from linformer_fairseq.tables import SUFFIXES, check_columns, read_rows

ROWS = 1024  # read at a time
CHARACTERS = 4 << 20  # in a window, or one document that is longer


@dataclass(frozen=True)
class Inputs:
    """Files with the same columns.

    Attributes:
        files: in the order of their rows.
        text: columns of text, one or two.
        keep: columns to carry over.
        quoted: whether `"` encloses fields of a TSV file.
    """

    files: tuple[Path, ...]
    text: tuple[str, ...]
    keep: tuple[str, ...] = ()
    quoted: bool = False

    @property
    def columns(self) -> list[str]:
        """All that are read, each once."""
        return list(dict.fromkeys((*self.text, *self.keep)))

    def schema(self) -> pa.Schema:
        """Names and types of the columns to carry over; of all but Parquet, strings.

        Raises:
            UsageError: a missing column, a text column of another type, or files whose types differ.
        """
        found: pa.Schema | None = None
        for path in self.files:
            schema = pa.schema([(name, pa.string()) for name in self.columns])
            if path.suffix == ".parquet":
                with _parquet(path) as file:
                    check_columns(path, file.schema_arrow.names, self.columns)
                    schema = pa.schema([file.schema_arrow.field(name).remove_metadata() for name in self.columns])
                for name in self.text:
                    if not _is_text(schema.field(name).type):
                        raise UsageError(
                            f"{path}: column {name} has the type {schema.field(name).type}, not text; --text-column "
                            "must name a column of strings"
                        )
            kept = pa.schema([schema.field(name) for name in self.keep])
            if found is not None and kept.types != found.types:
                raise UsageError(
                    f"{path}: the columns to keep have other types than in {self.files[0]} ({kept.types} and "
                    f"{found.types}); convert them, or leave them out of --keep-columns"
                )
            found = found or kept
        assert found is not None
        return found

    def count(self) -> int:
        """All rows. Files that are no Parquet are read to the end, so that a broken row is found before the work.

        Raises:
            UsageError: a file that cannot be read, or no rows at all.
        """
        rows = 0
        for path in self.files:
            if path.suffix == ".parquet":
                with _parquet(path) as file:
                    rows += file.metadata.num_rows
            else:
                rows += sum(batch.num_rows for batch in self._text_batches(path))
        if not rows:
            raise UsageError(f"{', '.join(map(str, self.files))}: no rows; there is nothing to encode")
        return rows

    def batches(self, skip: int = 0) -> Iterator[pa.RecordBatch]:
        """All rows behind the first `skip`, some at a time, with the same schema whatever the file."""
        for batch in self._batches(skip):
            columns = {name: batch.column(name) for name in self.columns}
            for name in set(self.text) - set(self.keep):
                columns[name] = _plain(columns[name]).cast(pa.large_string())
            yield pa.RecordBatch.from_pydict(columns)

    def _batches(self, skip: int) -> Iterator[pa.RecordBatch]:
        for path in self.files:
            if path.suffix == ".parquet":
                with _parquet(path) as file:
                    if skip >= file.metadata.num_rows:
                        skip -= file.metadata.num_rows
                        continue
                yield from self._parquet_batches(path, skip)
                skip = 0
            else:
                for batch in self._text_batches(path):
                    yield batch.slice(skip)
                    skip -= min(skip, batch.num_rows)

    def _parquet_batches(self, path: Path, skip: int) -> Iterator[pa.RecordBatch]:
        with _parquet(path) as file:
            groups = range(file.metadata.num_row_groups)
            while skip >= (rows := file.metadata.row_group(groups[0]).num_rows):
                skip, groups = skip - rows, groups[1:]
            try:
                for batch in file.iter_batches(ROWS, row_groups=list(groups), columns=self.columns, use_threads=False):
                    yield batch.slice(skip)
                    skip -= min(skip, batch.num_rows)
            except (pa.ArrowException, OSError) as error:
                raise UsageError(f"{path}: damaged ({error}); make it again") from error

    def _text_batches(self, path: Path) -> Iterator[pa.RecordBatch]:
        held: list[dict[str, str]] = []
        for number, row in read_rows(path, self.columns, quoted=self.quoted):
            if row is None:
                raise UsageError(f"{path}: row {number} has other columns than the first line; repair or remove it")
            held.append({name: row[name] for name in self.columns})
            if len(held) == ROWS:
                yield self._strings(held)
                held = []
        if held:
            yield self._strings(held)

    def _strings(self, rows: list[dict[str, str]]) -> pa.RecordBatch:
        return pa.RecordBatch.from_pylist(rows, pa.schema([(name, pa.string()) for name in self.columns]))


def find_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The files behind files and folders; of a folder, those of Parquet below it that are not hidden, by name.

    Raises:
        UsageError: no such file, none in a folder, or one of another kind.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(
                p for p in path.rglob("*.parquet") if not any(x[0] == "." for x in p.relative_to(path).parts)
            )
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


def windows(batches: Iterable[pa.RecordBatch], text: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Cuts what is read into windows, always at the same rows.

    Args:
        batches: of the input, cut anywhere.
        text: columns of text.
        rows: most rows of a window; one with `CHARACTERS` ends earlier.
    """
    held: list[pa.RecordBatch] = []
    count = size = 0
    for batch in batches:
        sizes = sum(np.asarray(pc.fill_null(pc.utf8_length(_plain(batch.column(name))), 0)) for name in text)
        start = 0
        for position, characters in enumerate(np.asarray(sizes).tolist()):
            if count == rows or (count and size + characters > CHARACTERS):
                yield pa.Table.from_batches([*held, batch.slice(start, position - start)])
                held, start, count, size = [], position, 0, 0
            count, size = count + 1, size + characters
        held.append(batch.slice(start))
    if count:
        yield pa.Table.from_batches(held)


def texts_of(window: pa.Table, columns: Sequence[str]) -> list[tuple[str, ...] | None]:
    """The texts of each row, white space made single; None for a row that lacks one.

    Raises:
        UsageError: a text that is not UTF-8.
    """
    found = []
    for name in columns:
        try:
            found.append([" ".join(text.split()) if text else "" for text in window.column(name).to_pylist()])
        except UnicodeDecodeError as error:
            raise UsageError(f"column {name}: a text is not UTF-8 ({error}); write the file again") from error
    return [row if all(row) else None for row in zip(*found, strict=True)]


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner))


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        # Without the buffer, all pages of a column of a row group are read at once, however large that is.
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not a Parquet file ({error}); name another --input") from error

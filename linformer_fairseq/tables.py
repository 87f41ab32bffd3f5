"""The rows of a table in a file: TSV, CSV, JSON lines or Parquet; values as text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from linformer_fairseq.errors import UsageError

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
Row = Mapping[str, str]
csv.field_size_limit(1 << 30)


def read_rows(
    path: Path, columns: Sequence[str], header: Sequence[str] | None = None, quoted: bool = False
) -> Iterator[tuple[int, Row | None]]:
    """Each row's number, from 1, and its columns; None for one with more or fewer columns than the first line.

    Args:
        path: its suffix says what it is.
        columns: that must be there; in JSON lines and Parquet, only these are given.
        header: names of the columns of a TSV or CSV file that has no line for them.
        quoted: whether `"` encloses fields of a TSV file.

    Raises:
        UsageError: no such file or column, or it cannot be read; with the row.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: its name must end with one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, columns)
    elif path.suffix == ".jsonl":
        yield from _json_rows(path, columns)
    else:
        yield from _delimited_rows(path, columns, header, quoted)


def _delimited_rows(
    path: Path, columns: Sequence[str], header: Sequence[str] | None, quoted: bool
) -> Iterator[tuple[int, Row | None]]:
    tab = path.suffix == ".tsv"
    with path.open(encoding="utf-8-sig", newline="" if path.suffix == ".csv" else "\n") as file:
        lines = _decoded(file, path)
        reader: Iterator[list[str]]
        if tab and not quoted:
            # Not by csv, which ends a row at a carriage return within a field, too.
            reader = (line.rstrip("\r\n").split("\t") for line in lines)
        else:
            reader = csv.reader(lines, delimiter="\t" if tab else ",")
        names = list(header) if header else next(reader, [])
        check_columns(path, names, columns)
        for number, row in enumerate(reader, start=1):
            yield number, dict(zip(names, row, strict=True)) if len(row) == len(names) else None


def _decoded(file: Iterator[str], path: Path) -> Iterator[str]:
    read = 0
    try:
        for line in file:
            read += 1
            yield line
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 behind line {read}; convert it, for example with iconv") from error


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(_decoded(file, path), start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UsageError(f"{path}: row {number} is not JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise UsageError(f"{path}: row {number} is not a JSON object")
            check_columns(path, list(row), columns, number)
            yield number, {name: _text(row[name]) for name in columns}


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    try:
        with pq.ParquetFile(path) as file:
            check_columns(path, file.schema_arrow.names, columns)
            number = 0
            for batch in file.iter_batches(columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {name: _text(row[name]) for name in columns}
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not a Parquet file ({error})") from error


def check_columns(path: Path, found: Sequence[str], wanted: Sequence[str], number: int | None = None) -> None:
    """Raises UsageError unless each wanted column is there once; `number` is the row's, where rows differ."""
    where = f"{path}: " if number is None else f"{path}: row {number}: "
    for name in wanted:
        if name not in found:
            raise UsageError(f"{where}no column {name}; it has {', '.join(found) or 'none'}")
        if list(found).count(name) > 1:
            raise UsageError(f"{where}two columns are named {name}")


def _text(value: object) -> str:
    """A value of JSON or Parquet as a TSV file would have it."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)

"""Texts and labels from a table: TSV, CSV, JSON lines or Parquet, each row checked."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from linformer_fairseq.compat.errors import UsageError

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
csv.field_size_limit(1 << 30)


@dataclass(frozen=True)
class Layout:
    """Where a table has what.

    Attributes:
        text: one or two columns of text.
        label: column of the label or score; None for a table without.
        header: names of the columns of a TSV or CSV file that has no line for them.
        quoted: whether `"` encloses fields of a TSV file; those of GLUE have stray ones that mean themselves.
    """

    text: tuple[str, ...]
    label: str | None = None
    header: tuple[str, ...] | None = None
    quoted: bool = False


@dataclass
class Table:
    """The rows of one file, in its order.

    Attributes:
        path: the file.
        texts: of each row, one or two.
        labels: of each row, as they stand in the file; None without a label column.
        broken: rows that have other columns than the first line says, left out.
    """

    path: Path
    texts: list[tuple[str, ...]] = field(default_factory=list)
    labels: list[str] | None = None
    broken: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def split(self, share: float) -> tuple[Table, Table]:
        """Two tables: the rest, and about that share of the rows; rows with the same texts stay together.

        A row's place depends on its texts alone, not on other rows or on chance.
        """
        parts = tuple(Table(self.path, labels=None if self.labels is None else []) for _ in range(2))
        for row, texts in enumerate(self.texts):
            digest = hashlib.sha256("\t".join(texts).encode()).digest()
            part = parts[int.from_bytes(digest[:8], "big") < share * 2**64]
            part.texts.append(texts)
            if part.labels is not None and self.labels is not None:
                part.labels.append(self.labels[row])
        return parts[0], parts[1]


def read_table(path: Path, layout: Layout, skip_broken: bool = False) -> Table:
    """Reads a table.

    Args:
        path: its suffix says what it is.
        layout: its columns.
        skip_broken: leave rows with a wrong number of columns out, counted, instead of stopping.

    Raises:
        UsageError: no such file or column, not UTF-8, a broken row or one without text or label; with the row.
    """
    table = Table(path, labels=None if layout.label is None else [])
    columns = (*layout.text, *(() if layout.label is None else (layout.label,)))
    for number, row in _rows(path, layout, columns):
        if row is None:
            if not skip_broken:
                raise UsageError(f"{path}: row {number} has other columns than the first line; repair or remove it")
            table.broken.append(number)
            continue
        texts = tuple(" ".join(row[name].split()) for name in layout.text)
        for name, text in zip(layout.text, texts, strict=True):
            if not text:
                raise UsageError(f"{path}: row {number} has no text in column {name}; fill or remove it")
        if table.labels is not None and layout.label is not None:
            label = row[layout.label].strip()
            if not label:
                raise UsageError(f"{path}: row {number} has nothing in column {layout.label}; fill or remove it")
            table.labels.append(label)
        table.texts.append(texts)
    if not table.texts:
        raise UsageError(f"{path}: has no rows")
    return table


def _rows(path: Path, layout: Layout, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str] | None]]:
    """Each row's number, from 1, and its columns; None for a broken one."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: its name must end with one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, columns)
    elif path.suffix == ".jsonl":
        yield from _json_rows(path, columns)
    else:
        yield from _delimited_rows(path, layout, columns)


def _delimited_rows(
    path: Path, layout: Layout, columns: Sequence[str]
) -> Iterator[tuple[int, Mapping[str, str] | None]]:
    tab = path.suffix == ".tsv"
    with path.open(encoding="utf-8-sig", newline="" if path.suffix == ".csv" else "\n") as file:
        lines = _decoded(file, path)
        reader: Iterator[list[str]]
        if tab and not layout.quoted:
            # Not by csv, which ends a row at a carriage return within a field, too.
            reader = (line.rstrip("\r\n").split("\t") for line in lines)
        else:
            reader = csv.reader(lines, delimiter="\t" if tab else ",")
        header = list(layout.header) if layout.header else next(reader, [])
        _check(path, header, columns)
        for number, row in enumerate(reader, start=1):
            yield number, dict(zip(header, row, strict=True)) if len(row) == len(header) else None


def _decoded(file: Iterator[str], path: Path) -> Iterator[str]:
    read = 0
    try:
        for line in file:
            read += 1
            yield line
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 behind line {read}; convert it, for example with iconv") from error


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(_decoded(file, path), start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UsageError(f"{path}: row {number} is not JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise UsageError(f"{path}: row {number} is not a JSON object")
            _check(path, list(row), columns, number)
            yield number, {name: _text(row[name]) for name in columns}


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        with pq.ParquetFile(path) as file:
            _check(path, file.schema_arrow.names, columns)
            number = 0
            for batch in file.iter_batches(columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {name: _text(row[name]) for name in columns}
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not a Parquet file ({error})") from error


def _check(path: Path, found: Sequence[str], wanted: Sequence[str], number: int | None = None) -> None:
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

"""Tables of texts, with or without labels, in TSV, CSV, JSON lines or Parquet files."""

import csv
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, compress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from linformer_fairseq.errors import UsageError

SEPARATOR = "|"  # between several labels of a row
SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
Row = dict[str, Any]
csv.field_size_limit(1 << 30)


@dataclass
class Table:
    """The rows of one file, in its order."""

    path: Path
    texts: list[tuple[str, ...]] = field(default_factory=list)  # one or two a row; white space is single spaces
    labels: list[str] | None = None  # as written in the file; None without a label column
    broken: list[int] = field(default_factory=list)  # numbers of the rows left out for missing columns

    def __len__(self) -> int:
        return len(self.texts)

    def digest(self) -> str:
        """SHA-256 of texts and labels."""
        return hashlib.sha256(json.dumps([self.texts, self.labels]).encode()).hexdigest()

    def split(self, share: float) -> tuple["Table", "Table"]:
        """Two tables, the second with about `share` of the rows. Rows with the same texts stay together.

        A row's place depends on its texts alone, not on other rows or on chance.
        """
        hashes = (hashlib.sha256("\t".join(texts).encode()).digest() for texts in self.texts)
        second = [int.from_bytes(found[:8], "big") < share * 2**64 for found in hashes]

        def part(kept: Sequence[bool]) -> Table:
            labels = None if self.labels is None else [*compress(self.labels, kept)]
            return Table(self.path, [*compress(self.texts, kept)], labels)

        return part([not own for own in second]), part(second)


def read_table(
    path: Path,
    text: Sequence[str],
    label: str | None = None,
    header: Sequence[str] | None = None,
    quoted: bool = False,
    skip_broken: bool = False,
    may_be_empty: Collection[str] = (),
) -> Table:
    """Read a table into memory; UsageError for a file, column or row that is missing, broken, empty or not UTF-8.

    The suffix of `path` tells the format; of a folder, such as a corpus, all .parquet files in it are read. `header`
    has the columns of a TSV or CSV file without a header line. `quoted`: `"` encloses fields of a TSV file; in those of
    GLUE it is an ordinary character. `skip_broken`: leave out rows with a wrong number of columns or an empty one and
    list them, instead of stopping. Columns in `may_be_empty` need not be filled in.
    """
    table = Table(path, labels=None if label is None else [])
    columns = [*text, *([] if label is None else [label])]
    for number, row in read_rows(path, columns, header, quoted, table.broken if skip_broken else None):
        empty = next((name for name in columns if name not in may_be_empty and not row[name].strip()), None)
        if empty is not None and skip_broken:
            table.broken.append(number)
            continue
        if empty is not None:
            what = "label" if empty == label else "text"
            raise UsageError(f"{path}: row {number} has no {what} in column {empty}; fill it in or remove the row")
        table.texts.append(tuple(" ".join(row[name].split()) for name in text))
        if table.labels is not None:
            table.labels.append(row[columns[-1]].strip())
    if not table.texts:
        raise UsageError(f"{path}: has no rows")
    return table


def read_rows(
    path: Path,
    columns: Sequence[str],
    header: Sequence[str] | None = None,
    quoted: bool = False,
    broken: list[int] | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row's number, from 1, and its `columns` as text; see `read_table`.

    `broken` takes the numbers of rows with a wrong number of columns; None makes such a row an error.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or path.suffix not in SUFFIXES and path in files:
        forms = ", ".join(SUFFIXES)
        raise UsageError(f"{path}: its name must end with one of {forms}, or it must be a folder of the last")
    if path in files and not path.is_file():
        raise UsageError(f"{path}: no such file")
    rows: Iterator[tuple[int, Row]]
    if files[0].suffix == ".parquet":
        rows = enumerate(chain.from_iterable(_parquet_rows(one, columns) for one in files), 1)
    elif path.suffix == ".jsonl":
        rows = enumerate(json_rows(path, columns), 1)
    else:
        rows = _delimited_rows(path, columns, header, quoted, broken)
    for number, row in rows:
        yield number, {name: _as_text(row[name]) for name in columns}


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file of any size; UsageError if it is not one or is damaged, at any time while it is open."""
    try:
        # Without the buffer, all pages of a column of a row group are read at once, however large that is.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        remedy = "make it again, or name another file"
        raise UsageError(f"{path}: not a Parquet file, or damaged ({error}); {remedy}") from error


def check_columns(where: Path | str, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise UsageError unless each wanted column is there exactly once; `where` is a file or a row."""
    for name in wanted:
        if name not in found:
            raise UsageError(f"{where}: no column {name}; it has {', '.join(found) or 'none'}")
        if list(found).count(name) > 1:
            raise UsageError(f"{where}: two columns are named {name}")


def _delimited_rows(
    path: Path, columns: Sequence[str], header: Sequence[str] | None, quoted: bool, broken: list[int] | None
) -> Iterator[tuple[int, Row]]:
    tab = path.suffix == ".tsv"
    lines = read_lines(path, newline="\n" if tab else "")
    # Unless it is strict, a quote that is never closed takes all rows behind it.
    reader: Iterator[list[str]] = csv.reader(lines, delimiter="\t" if tab else ",", strict=True)
    if tab and not quoted:
        # The csv module would also end a row at a carriage return within a field.
        reader = (line.rstrip("\r\n").split("\t") for line in lines)
    number = 0
    try:
        names = list(header) if header else next(reader, [])
        check_columns(path, names, columns)
        for number, fields in enumerate(reader, start=1):
            if len(fields) == len(names):
                yield number, dict(zip(names, fields, strict=True))
            elif broken is not None:
                broken.append(number)
            else:
                found = f"{len(fields)} columns instead of {len(names)}"
                raise UsageError(f"{path}: row {number} has {found}; repair or remove it")
    except csv.Error as error:
        remedy = 'close each ", and write one within a field twice'
        raise UsageError(f"{path}: row {number + 1} has wrong quotes ({error}); {remedy}") from error


def read_lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """The lines of a text file, with `newline` as of `open`; UsageError if it is missing or not UTF-8.

    Empty lines at its end, which editors leave there, are no lines.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    read, empty = 0, list[str]()
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            for line in file:
                if line.strip():
                    yield from (*empty, line)
                    empty.clear()
                else:
                    empty.append(line)
                read += 1
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 after line {read}; convert it, for example with iconv") from error


def json_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The objects of a file of JSON lines, which have the `columns`; UsageError for another line."""
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}: row {number}"
        try:
            row = json.loads(line)
            if "\\ud" in line.lower():  # half of a character, which no file of text can hold
                json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where} is not JSON ({error}); repair or remove it") from error
        if not isinstance(row, dict):
            raise UsageError(f"{where} is not a JSON object")
        check_columns(where, list(row), columns)
        yield row


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    with open_parquet(path) as file:
        check_columns(path, file.schema_arrow.names, columns)
        for batch in file.iter_batches(columns=list(columns)):
            yield from batch.to_pylist()


def _as_text(value: object) -> str:
    """A value of JSON or Parquet as a TSV file would have it."""
    if value is None:
        return ""
    if isinstance(value, list):  # of labels
        return SEPARATOR.join(map(_as_text, value))
    return str(int(value)) if isinstance(value, bool) else str(value)

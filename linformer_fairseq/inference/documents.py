"""Tables of documents that may be larger than memory: checked, and cut into windows that can be read in any order."""

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
from linformer_fairseq.tables import SUFFIXES, check_columns, open_parquet, read_rows

BATCH_ROWS = 1024  # read at a time
TEXT = (pa.string(), pa.large_string(), pa.string_view())
WINDOW_CHARACTERS = 4 << 20  # at most, unless a single document is longer


@dataclass(frozen=True)
class Documents:
    """Files with the same columns."""

    files: tuple[Path, ...]  # in the order of their rows
    text: tuple[str, ...]  # one or two columns of text
    keep: tuple[str, ...] = ()  # columns to carry over to the output
    quoted: bool = False  # whether `"` encloses fields of a TSV file

    def schema(self) -> pa.Schema:
        """The columns that are read and their types; those that are only text become large strings.

        UsageError for a missing column in a Parquet file, a text column of another type, or files whose types differ.
        """
        columns = list(dict.fromkeys((*self.text, *self.keep)))
        first: list[pa.DataType] = []
        for path in self.files:
            types = dict.fromkeys(columns, pa.string())
            if path.suffix == ".parquet":
                with open_parquet(path) as file:
                    schema = file.schema_arrow
                check_columns(path, schema.names, columns)
                types = {name: schema.field(name).type for name in columns}
            for name in self.text:
                kind = types[name]
                if (kind.value_type if pa.types.is_dictionary(kind) else kind) not in TEXT:
                    remedy = "--text-column must name a column of strings"
                    raise UsageError(f"{path}: column {name} has the type {kind}, not text; {remedy}")
            kept = [types[name] for name in self.keep]
            first = first or kept
            if kept != first:
                types_of = f"{', '.join(map(str, kept))}, not {', '.join(map(str, first))}"
                wrong = f"the columns to keep have other types than in {self.files[0]} ({types_of})"
                raise UsageError(f"{path}: {wrong}; convert them, or leave them out of --keep-columns")
        return pa.schema(dict.fromkeys(columns, pa.large_string()) | dict(zip(self.keep, first, strict=True)))


def find_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Files, and the Parquet files below folders, in the order of their names; hidden ones are left out.

    UsageError where there is no such file, none in a folder, or one of another format.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = [file.relative_to(path) for file in sorted(path.rglob("*.parquet"))]
            found = [path / file for file in below if not any(part.startswith(".") for part in file.parts)]
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


def window_file(folder: Path, number: int) -> Path:
    """The file of a window that `cut_windows` wrote."""
    return folder / f"input-{number:09}.parquet"


def cut_windows(documents: Documents, rows: int, folder: Path) -> Done:
    """Copy the columns of documents to a Parquet file for each window, of at most `rows` and `WINDOW_CHARACTERS`.

    The result has `windows`, the number of rows of each. UsageError for content that cannot be read, or no rows.
    """
    schema = documents.schema()
    batches = (batch for path in documents.files for batch in _batches(documents, path, schema))
    sizes = []
    for number, window in enumerate(_windows(batches, documents.text, rows)):
        with replace_when_done(window_file(folder, number)) as partial:
            pq.write_table(window, partial, write_page_checksum=True)
        sizes.append(window.num_rows)
    if not sizes:
        raise UsageError(f"{', '.join(map(str, documents.files))}: no rows; there is nothing to encode")
    return Done({"windows": sizes}, [window_file(folder, number) for number in range(len(sizes))])


def texts_of(rows: pa.Table, columns: Sequence[str]) -> list[tuple[str, ...] | None]:
    """The texts of each row, each run of white space as one space; None for a row that lacks one.

    UsageError for a text that is not UTF-8.
    """
    found = []
    for name in columns:
        try:
            found.append([" ".join(text.split()) if text else "" for text in rows.column(name).to_pylist()])
        except UnicodeDecodeError as error:
            raise UsageError(f"column {name}: a text is not UTF-8 ({error}); write the file again") from error
    return [row if all(row) else None for row in zip(*found, strict=True)]


def _batches(documents: Documents, path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """All rows of a file, some at a time."""
    if path.suffix != ".parquet":
        rows = (row for _, row in read_rows(path, schema.names, quoted=documents.quoted))
        while held := list(islice(rows, BATCH_ROWS)):
            yield pa.RecordBatch.from_pylist(held, schema)
        return
    with open_parquet(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=schema.names, use_threads=False):
            yield batch.select(schema.names).cast(schema)


def _windows(batches: Iterator[pa.RecordBatch], text: Sequence[str], rows: int) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    count = size = 0
    for batch in batches:
        lengths = [pc.fill_null(pc.utf8_length(batch.column(name).cast(pa.large_string())), 0) for name in text]
        start = 0
        for row, characters in enumerate(map(sum, zip(*(column.to_pylist() for column in lengths), strict=True))):
            if count == rows or (count and size + characters > WINDOW_CHARACTERS):
                yield pa.Table.from_batches([*held, batch.slice(start, row - start)])
                held, start, count, size = [], row, 0, 0
            count, size = count + 1, size + characters
        held.append(batch.slice(start))
    if count:
        yield pa.Table.from_batches(held)

"""The three kinds of Arrow's files behind one face: Parquet, Arrow files (IPC, Feather) and Arrow streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 16 << 20  # bytes of one batch of rows, unpacked, on average
BATCH_ROWS = 1024


@dataclass(frozen=True)
class Table:
    """An open table.

    Attributes:
        schema: names and types of its columns.
        part_name: what its parts are called.
        sizes: of each part, in bytes, unpacked or in proportion to that.
        batches: rows of a part with some of the columns, about 16 MB at a time.
    """

    schema: pa.Schema
    part_name: str
    sizes: list[int]
    batches: Callable[[int, Sequence[str]], Iterator[pa.RecordBatch]]


@contextmanager
def opened(path: Path) -> Iterator[Table]:
    """Opens a table of any kind, told by its first bytes.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"PAR1"):
        # Without the buffer, Parquet reads all pages of a column of a row group at once, however large that is.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as parquet:
            yield _parquet(parquet)
    elif start == b"ARROW1":
        with pa.memory_map(str(path)) as mapped:
            yield _arrow_file(pa.ipc.open_file(mapped), path.stat().st_size)
    elif start.startswith(b"\xff\xff\xff\xff"):
        with pa.OSFile(str(path)) as stream, pa.ipc.open_stream(stream) as reader:
            yield Table(reader.schema, "stream", [path.stat().st_size], lambda _, names: _sliced(reader, names))
    else:
        raise OSError("neither Parquet nor Arrow" if start else "the file is empty")


def _parquet(file: pq.ParquetFile) -> Table:
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]

    def batches(part: int, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        group = groups[part]
        rows = _rows(group.total_byte_size, group.num_rows)
        yield from file.iter_batches(rows, row_groups=[part], columns=list(names), use_threads=False)

    return Table(file.schema_arrow, "row group", [group.total_byte_size for group in groups], batches)


def _arrow_file(reader: pa.ipc.RecordBatchFileReader, size: int) -> Table:
    parts = reader.num_record_batches

    def batches(part: int, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return _sliced([reader.get_batch(part)], names)

    return Table(reader.schema, "record batch", [size // max(1, parts)] * parts, batches)


def _sliced(
    batches: Iterator[pa.RecordBatch] | Sequence[pa.RecordBatch], names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = _rows(batch.nbytes, batch.num_rows)
        for start in range(0, batch.num_rows, rows):
            yield batch.select(list(names)).slice(start, rows)


def _rows(size: int, rows: int) -> int:
    """Rows of one batch, of ``rows`` that take ``size`` bytes."""
    return max(1, min(BATCH_ROWS, BATCH * rows // max(1, size)))

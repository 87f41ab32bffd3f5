"""A corpus: a folder of Parquet shards, one row per document.

A document's ``text`` is its paragraphs, one a line, without empty lines and with single spaces. Every later
stage relies on that form, so each source goes through :func:`tidy` before it is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.stage import DataPrepError, replace_when_done

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "title", "text", "sha256")])

# A row group is the unit of work of the later stages: big enough to compress well and to keep a process busy
# for seconds, small enough that a worker's memory stays flat whatever the size of the corpus.
ROW_GROUP_CHARACTERS = 4_000_000
SHARD_CHARACTERS = 64_000_000


@dataclass(frozen=True)
class Document:
    """One article, book or module: the unit that is hashed, deduplicated and split."""

    id: str
    source: str
    title: str
    text: str

    @property
    def sha256(self) -> str:
        """Hash of the text alone, so that equal texts from two sources meet."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def tidy(lines: Iterable[str]) -> str:
    """Paragraphs, one a line: white space becomes single spaces, empty lines go."""
    return "\n".join(filter(None, (" ".join(line.split()) for line in lines)))


def join_wrapped(lines: Iterable[str]) -> Iterator[str]:
    """Joins hard-wrapped lines: a paragraph ends at an empty line."""
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield " ".join(paragraph)
            paragraph = []
    if paragraph:
        yield " ".join(paragraph)


def write_shards(documents: Iterable[Document], out: Path, prefix: str) -> dict[str, int]:
    """Writes ``out/prefix-00000.parquet`` and on; returns the counts of documents, characters and shards.

    The same documents in the same order give the same bytes.
    """
    counts = {"documents": 0, "characters": 0, "shards": 0}
    groups = _row_groups(documents)
    group = next(groups, None)
    while group:
        path = out / f"{prefix}-{counts['shards']:05d}.parquet"
        written = 0
        with (
            replace_when_done(path) as partial,
            pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer,
        ):
            while group and written < SHARD_CHARACTERS:
                rows = [(d.id, d.source, d.title, d.text, d.sha256) for d in group]
                columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
                writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA))
                written += sum(len(d.text) for d in group)
                counts["documents"] += len(rows)
                group = next(groups, None)
        counts["characters"] += written
        counts["shards"] += 1
    return counts


def _row_groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document.text)
        if size >= ROW_GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def shards(corpus: Path) -> list[Path]:
    """The Parquet files of a corpus folder, in the order in which every stage reads them."""
    paths = sorted(corpus.glob("*.parquet"))
    if not paths:
        raise DataPrepError(f"{corpus}: no .parquet files here; make them with `python -m data_prep extract`")
    for path in paths:
        missing = {"text", "sha256"} - set(pq.read_schema(path).names)
        if missing:
            raise DataPrepError(f"{path}: no column {' or '.join(sorted(missing))}; is it from `extract`?")
    return paths


def row_groups(corpus: Path) -> list[tuple[Path, int]]:
    """Every (shard, row group number) of a corpus, in order."""
    return [(path, n) for path in shards(corpus) for n in range(pq.read_metadata(path).num_row_groups)]


def read_row_group(path: Path, number: int) -> Iterator[tuple[str, str]]:
    """Yields (text, sha256) of each document of one row group."""
    table = pq.ParquetFile(path).read_row_group(number, columns=["text", "sha256"])
    yield from zip(table["text"].to_pylist(), table["sha256"].to_pylist(), strict=True)

"""The dev and test examples of a benchmark folder, such as GLUE's or IMDB's: what pretraining must not have seen."""

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from linformer_fairseq.errors import UsageError

KINDS = (".tsv", ".csv", ".jsonl", ".parquet")
# Shorter cells are labels, numbers or phrases that prove nothing when they are found again.
SHORTEST_EXAMPLE = 8  # words
# Parts of a file's or folder's name, such as dev_matched.tsv or validation/0.parquet.
_HELD_OUT = {"dev", "valid", "validation", "val", "test", "eval"}


def benchmark_examples(folder: Path) -> Iterator[str]:
    """Yield every cell of eight words or more of the dev and test files anywhere below a folder, with their headers.

    Reads .tsv (no quoting, as in GLUE), .csv, .jsonl and .parquet. Raises UsageError if there is no such file, or one
    that cannot be read.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in KINDS and path.is_file()]
    parts = {path: set(re.split(r"[-_./]", str(path.relative_to(folder)).lower())) for path in paths}
    held_out = [path for path in paths if parts[path] & _HELD_OUT and "train" not in parts[path]]
    if not held_out:
        raise UsageError(
            f"{folder}: no dev or test files here ({', '.join(KINDS)}); unpack the benchmark into this folder, "
            "with dev, valid or test in the files' names"
        )
    for path in held_out:
        row = 1
        try:
            for record in _records(path):
                yield from (text for text in _strings(record) if len(text.split()) >= SHORTEST_EXAMPLE)
                row += 1
        except (ValueError, RecursionError, csv.Error, pa.ArrowException, OSError) as error:
            raise UsageError(f"{path}:{row}: cannot be read ({error}); repair or remove the file") from error


def _records(path: Path) -> Iterator[object]:
    """The rows of a table, each a value that holds strings."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        csv.field_size_limit(sys.maxsize)
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.reader(file)
    elif suffix == ".parquet":
        with pq.ParquetFile(path) as table:
            yield from (record for batch in table.iter_batches(1024) for record in batch.to_pylist())
    else:
        with path.open("rb") as lines:
            for number, raw in enumerate(lines):
                line = raw.decode("utf-8" if number else "utf-8-sig").rstrip("\r\n")
                # Quotes are part of the text in GLUE's .tsv files.
                yield line.split("\t") if suffix == ".tsv" else json.loads(line.strip() or "null")


def _strings(value: object) -> Iterator[str]:
    """Every string in a value, however deep (questions come with lists of answers)."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)

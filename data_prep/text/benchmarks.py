"""The dev and test examples of a benchmark folder, such as GLUE's or IMDB's: what pretraining must not have seen."""

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.read_errors import ReadErrors
from linformer_fairseq.errors import UsageError

KINDS = (".tsv", ".csv", ".jsonl", ".parquet")
# Shorter cells are labels, numbers or phrases that prove nothing when they are found again.
SHORTEST_EXAMPLE = 8  # words
# Parts of a file's or folder's name, such as dev_matched.tsv or validation/0.parquet.
_HELD_OUT = {"dev", "valid", "validation", "val", "test", "eval"}


def benchmark_examples(folder: Path, problems: ReadErrors) -> Iterator[tuple[str, str]]:
    """Yield (file and row, text) of every cell of eight words or more, in files of dev and test examples.

    Reads .tsv (no quoting, as in GLUE), .csv, .jsonl and .parquet, anywhere below the folder, with or without header.
    Raises UsageError if the folder holds no such file.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in KINDS and path.is_file()]
    held_out = [path for path in paths if _is_held_out(path.relative_to(folder))]
    if not held_out:
        raise UsageError(
            f"{folder}: no dev or test files here ({', '.join(KINDS)}); unpack the benchmark into this folder, "
            "with dev, valid or test in the files' names"
        )
    for path in held_out:
        try:
            for row, cells in _rows(path, problems):
                yield from ((f"{path}:{row}", cell) for cell in cells if len(cell.split()) >= SHORTEST_EXAMPLE)
        except (UnicodeDecodeError, csv.Error, pa.ArrowException, OSError) as error:
            problems.report(str(path), f"cannot be read to its end ({error})")


def _is_held_out(path: Path) -> bool:
    words = set(re.split(r"[-_./]", str(path).lower()))
    return bool(words & _HELD_OUT) and "train" not in words


def _rows(path: Path, problems: ReadErrors) -> Iterator[tuple[int, list[str]]]:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        csv.field_size_limit(sys.maxsize)
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            for cells in rows:
                yield rows.line_num, cells
    elif suffix == ".parquet":
        with pq.ParquetFile(path) as table:
            records = (record for batch in table.iter_batches(1024) for record in batch.to_pylist())
            for number, record in enumerate(records, 1):
                yield number, list(_strings(record))
    else:
        with path.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                    if suffix == ".tsv":
                        yield number, line.split("\t")  # quotes are part of the text in GLUE's files
                    else:
                        yield number, list(_strings(json.loads(line.strip() or "null")))
                except (ValueError, RecursionError) as error:
                    problems.report(f"{path}:{number}", f"not UTF-8 or not JSON ({error})")


def _strings(value: object) -> Iterator[str]:
    """Every string in a value, however deep (questions come with lists of answers)."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)

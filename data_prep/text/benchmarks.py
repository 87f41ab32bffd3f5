"""The dev and test examples of a benchmark folder, such as GLUE's or IMDB's: what pretraining must not have seen."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.problems import Problems
from linformer_fairseq.errors import UsageError

# Parts of a file's or folder's name, such as dev_matched.tsv or validation/0.parquet; what is not among them,
# as train.tsv, is no benchmark.
_HELD_OUT = ("dev", "valid", "validation", "val", "test", "eval")

# Shorter cells are labels, numbers or phrases that prove nothing where they are found again.
SHORTEST_EXAMPLE = 8


def benchmark_examples(folder: Path, problems: Problems) -> Iterator[tuple[str, str]]:
    """Yields (file and row, text) of every cell of eight words or more, in files of dev and test examples.

    Reads .tsv (no quoting, as GLUE), .csv, .jsonl and .parquet, anywhere below the folder, with or without header.

    Raises:
        UsageError: the folder holds no such file.
    """
    found = False
    for path in sorted(folder.rglob("*")):
        reader = _READERS.get(path.suffix.lower())
        if reader is not None and path.is_file() and _is_held_out(path.relative_to(folder)):
            found = True
            for row, cells in reader(path, problems):
                for cell in cells:
                    if len(cell.split()) >= SHORTEST_EXAMPLE:
                        yield f"{path}:{row}", cell
    if not found:
        raise UsageError(
            f"{folder}: no dev or test files here ({', '.join(_READERS)}); unpack the benchmark into this folder, "
            "with dev, valid or test in the files' names"
        )


def _is_held_out(path: Path) -> bool:
    parts = [word for part in path.parts for word in part.lower().replace("-", "_").replace(".", "_").split("_")]
    return any(word in _HELD_OUT for word in parts) and "train" not in parts


def _tsv(path: Path, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    # Quotes are part of the text in GLUE's files, so neither they nor line ends within them may be interpreted.
    for number, line in _lines(path, problems):
        yield number, line.split("\t")


def _csv(path: Path, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            for cells in rows:
                yield rows.line_num, cells
    except (UnicodeDecodeError, csv.Error) as error:
        problems.report(str(path), f"not a CSV file in UTF-8 ({error})")


def _jsonl(path: Path, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    for number, line in _lines(path, problems):
        if line.strip():
            try:
                yield number, list(_strings(json.loads(line)))
            except (json.JSONDecodeError, RecursionError) as error:
                problems.report(f"{path}:{number}", f"not JSON ({error})")


def _parquet(path: Path, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, list(_strings(row))
    except (pa.ArrowException, OSError) as error:
        problems.report(f"{path}:{number + 1}", f"not a Parquet file that can be read ({error})")


def _lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                problems.report(f"{path}:{number}", f"not UTF-8 at byte {error.start} of the line")


def _strings(value: object) -> Iterator[str]:
    """Every string in a value, however deep (questions come with lists of answers)."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


_READERS: dict[str, Callable[[Path, Problems], Iterator[tuple[int, list[str]]]]] = {
    ".tsv": _tsv,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}

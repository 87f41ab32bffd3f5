"""The dev and test examples of a benchmark folder, such as GLUE's, SQuAD's or IMDB's: what pretraining must not see."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from data_prep.sources.files import READ_ERRORS, kind, opened
from data_prep.text.ngrams import SHORTEST
from linformer_fairseq.errors import UsageError

KINDS = (".tsv", ".csv", ".json", ".jsonl", ".txt", ".parquet")
# Parts of a file's or folder's name, such as dev_matched.tsv or validation/0.parquet.
_HELD_OUT = {"dev", "valid", "validation", "val", "test", "eval"}
_OTHERS = {"train", "readme", "license", "licence"}


def benchmark_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The dev and test files anywhere below a folder; and what may be such a file, but for its kind or its name."""
    read: list[Path] = []
    unread: list[Path] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts = set(re.split(r"[^a-z]+", str(path.relative_to(folder)).lower()))
        if parts & _OTHERS:
            continue
        held_out, known = bool(parts & _HELD_OUT), kind(path.name) in KINDS
        if held_out or known:
            (read if held_out and known else unread).append(path)
    return read, unread


def benchmark_examples(folder: Path) -> Iterator[str]:
    """Yield every text of eight words or more in the dev and test files of a folder, their headers included.

    Reads .tsv (no quoting, as in GLUE), .csv, .json (SQuAD's, or a value a line), .jsonl, .txt (an example a line) and
    .parquet, compressed or not. Raises UsageError if there is no such file, or one that cannot be read.
    """
    held_out, _ = benchmark_files(folder)
    if not held_out:
        raise UsageError(
            f"{folder}: no dev or test files here ({', '.join(KINDS)}); unpack the benchmark into this folder, "
            "with dev, valid or test in the files' names"
        )
    for path in held_out:
        row = 1
        try:
            for record in _records(path):
                for text in _strings(record):  # fewer words are labels, numbers or phrases, which prove nothing
                    if len(text.split() if text.isascii() else text) >= SHORTEST:
                        yield text
                row += 1
        except (ValueError, RecursionError, csv.Error, *READ_ERRORS) as error:
            raise UsageError(f"{path}:{row}: cannot be read ({error}); repair or remove the file") from error


def _records(path: Path) -> Iterator[object]:
    """The rows of a table, each a value that holds strings."""
    suffix = kind(path.name)
    if suffix == ".parquet":
        with pq.ParquetFile(path) as table:
            yield from (record for batch in table.iter_batches(1024) for record in batch.to_pylist())
        return
    with opened(path) as file:
        if suffix == ".csv":
            csv.field_size_limit(sys.maxsize)
            yield from csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""))
            return
        lines: Iterable[bytes] = file
        if suffix == ".json":
            content = file.read()
            try:
                yield json.loads(content)
                return
            except ValueError:
                lines = content.splitlines()  # a value a line
        for number, raw in enumerate(lines):
            line = raw.decode("utf-8" if number else "utf-8-sig").rstrip("\r\n")
            # Quotes are part of the text in GLUE's .tsv files.
            if suffix in (".tsv", ".txt"):
                yield line.split("\t")
            else:
                yield json.loads(line.strip() or "null")


def _strings(value: object) -> Iterator[str]:
    """Every string in a value, however deep (questions come with lists of answers), and a list of words as a text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        inside = [*value.values()] if isinstance(value, dict) else value
        if len(inside) >= SHORTEST and all(isinstance(word, str) and " " not in word for word in inside):
            yield " ".join(inside)
        for inner in inside:
            yield from _strings(inner)

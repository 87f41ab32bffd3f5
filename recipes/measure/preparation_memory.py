"""Peak memory of any one process in each stage of data_prep, for corpora of several sizes (Linux).

    python recipes/measure/preparation_memory.py doc=wikipedia/ books=books/ --out RUN \\
        --report docs/benchmarks/data_prep/memory.md

A corpus larger than the given texts continues with copies of their documents, in which the words of each paragraph are
shuffled, so that none is a duplicate. The last column is a corpus of one document, as large as extract lets through.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

from data_prep.corpus import corpus_files, read_file
from data_prep.sources.files import LARGEST_DOCUMENT
from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.study import Cells, Measurement, comparison

MEGABYTE = 1_000_000
# Runs a command, and waits for all its descendants: those whose parent has ended become children of this process
# (PR_SET_CHILD_SUBREAPER is 36). It is small itself: a process counts the memory of the one that it was forked from.
PEAK = """
import ctypes, os, resource, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)
status = subprocess.call(sys.argv[1:], stdout=sys.stderr)
try:
    while True:
        os.wait()
except ChildProcessError:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(status)
"""


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="+", metavar="SOURCE=PATH", help="input of `data_prep extract`")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 400], help="MB (default: 10 100 400)")
    parser.add_argument("--workers", type=int, default=2, help="processes of each stage (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=8192, help="of the tokenizer (default: %(default)s)")
    parser.add_argument("--largest", type=int, default=int(LARGEST_DOCUMENT * 0.9), help="bytes of the one document")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    given = options.out / "given"
    for text in options.text:
        source, _, path = text.rpartition("=")
        data_prep("extract", "--source", source or "text", path, "--out", given)
    texts = [document.text for file in corpus_files(given) for document in read_file(file)]
    work = {f"{size} MB": partial(stages, options, texts, size * MEGABYTE) for size in options.sizes}
    largest = f"one document of {options.largest / MEGABYTE:.0f} MB"
    cells.run(work | {largest: partial(stages, options, texts, options.largest, one=True)})


def stages(options: argparse.Namespace, texts: list[str], size: int, one: bool = False) -> dict[str, int]:
    """Runs all stages on a corpus of `size` bytes, many documents or one; the peak of each in MB."""
    folder = options.out / "corpus"
    shutil.rmtree(folder, ignore_errors=True)
    given, corpus, clean, dedup, split, tokenizer, data = (folder / name for name in ("in", *"abcdef"))
    write_jsonl(given, texts, size, one)
    many = ("--workers", options.workers)
    commands: dict[str, tuple[object, ...]] = {
        "extract": ("--source", "jsonl", given, "--out", corpus, *many),
        "clean": (corpus, "--out", clean, *many),
        "dedup": (clean, "--out", dedup, *many),
        "split": (dedup, "--out", split, *many),
        "tokenizer": (split / "train", "--out", tokenizer, "--vocab-size", options.vocab_size),
        "binarize": (split, "--tokenizer", tokenizer, "--out", data, *many),
    }
    peaks = {stage: round(data_prep(stage, *words) / MEGABYTE) for stage, words in commands.items()}
    shutil.rmtree(folder)
    return peaks


def varied(texts: list[str]) -> Iterator[str]:
    """The texts, and then endlessly the same with their words shuffled."""
    yield from random.Random(0).sample(texts, len(texts))
    for seed in count(1):
        chance = random.Random(seed)
        for text in texts:
            paragraphs = [line.split() for line in text.split("\n")]
            yield "\n".join(" ".join(chance.sample(words, len(words))) for words in paragraphs)


def write_jsonl(folder: Path, texts: list[str], size: int, one: bool) -> None:
    """Documents of `size` bytes in files of 10,000; or one such document, beside small ones for the tokenizer."""
    folder.mkdir(parents=True)
    documents: list[str] = []
    for text in varied(texts):
        documents.append(text)
        size -= len(text)
        if size <= 0 or (not one and len(documents) >= 10_000):
            lines = ["\n".join(documents), *texts[:200]] if one else documents
            file = folder / f"{len(list(folder.iterdir())):03d}.jsonl"
            file.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
            documents = []
        if size <= 0:
            return


def data_prep(*arguments: object) -> int:
    """Runs one command of data_prep; the peak of its largest process in bytes."""
    return peak_of(sys.executable, "-m", "data_prep", *map(str, arguments))


def peak_of(*command: str) -> int:
    """Runs a command; the peak of its largest process in bytes."""
    done = subprocess.run([sys.executable, "-c", PEAK, *command], capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{' '.join(command[2:4])} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout)


TABLE = comparison("Peak memory of data_prep", "Peak resident memory of the largest process of each stage, in MB.")
QUICK = {"sizes": [1], "vocab_size": 512, "largest": MEGABYTE}
MEASUREMENT = Measurement(__file__, __doc__, flags, measure, TABLE, quick=QUICK, choices=("sizes", "largest"))

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

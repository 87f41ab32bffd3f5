"""Peak memory of any one process in each stage of data_prep, for corpora of several sizes.

    python recipes/reproduce/preparation_memory.py doc=wikipedia/ books=books/ --out docs/benchmarks/data_prep/memory.md

A corpus larger than the given texts goes on with copies of their documents, in which the words of each paragraph are
shuffled, so that none is a duplicate. The last column is a corpus of one document, as large as extract lets through.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="+", metavar="SOURCE=PATH", help="input of `data_prep extract`")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 400], help="MB (default: 10 100 400)")
    parser.add_argument("--workers", type=int, default=2, help="processes of each stage (default: 2)")
    parser.add_argument("--vocab-size", type=int, default=8192, help="of the tokenizer (default: 8192)")
    parser.add_argument("--out", type=Path, help="file for the table")
    args = parser.parse_args()
    columns: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        texts = list(read_texts(Path(folder) / "given", args.text))
        for size in args.sizes:
            corpus = Path(folder) / f"{size} MB"
            write_jsonl(corpus / "in", varied(texts), size * MEGABYTE)
            columns[corpus.name] = stages(corpus, args.workers, args.vocab_size)
        corpus = Path(folder) / "one document"
        size = write_one(corpus / "in", varied(texts), texts[:200])
        columns[f"one document of {size / MEGABYTE:.0f} MB"] = stages(corpus, args.workers, args.vocab_size)
    table = table_of(columns, args.workers)
    print(table)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(table + "\n", encoding="utf-8")


def table_of(columns: dict[str, dict[str, int]], workers: int) -> str:
    """The Markdown table, in MB."""
    rows = [
        " | ".join([f"| {stage}", *(f"{column[stage] / MEGABYTE:.0f}" for column in columns.values())]) + " |"
        for stage in next(iter(columns.values()))
    ]
    return "\n".join(
        [
            f"Peak resident memory of the largest process in MB, {workers} workers.",
            "",
            f"| stage | {' | '.join(columns)} |",
            "|---|" + "---:|" * len(columns),
            *rows,
        ]
    )


def read_texts(folder: Path, inputs: list[str]) -> Iterator[str]:
    """The texts of all documents of the sources."""
    from data_prep.corpus import corpus_files, read_file

    for text in inputs:
        source, _, path = text.rpartition("=")
        run("extract", "--source", source or "text", path, "--out", folder)
    for file in corpus_files(folder):
        yield from (document.text for document in read_file(file))


def varied(texts: list[str]) -> Iterator[str]:
    """The texts, and then endlessly the same with their words shuffled."""
    yield from random.Random(0).sample(texts, len(texts))
    for seed in count(1):
        chance = random.Random(seed)
        for text in texts:
            paragraphs = [line.split() for line in text.split("\n")]
            yield "\n".join(" ".join(chance.sample(words, len(words))) for words in paragraphs)


def write_jsonl(folder: Path, texts: Iterator[str], size: int) -> None:
    """Files of JSON lines, ``size`` bytes in all."""
    folder.mkdir(parents=True)
    for number in count():
        with (folder / f"{number:03d}.jsonl").open("w", encoding="utf-8") as file:
            while file.tell() < 50 * MEGABYTE:
                size -= file.write(json.dumps({"text": next(texts)}) + "\n")
                if size <= 0:
                    return


def write_one(folder: Path, texts: Iterator[str], others: list[str]) -> int:
    """One line of JSON just below the largest document, and small ones for the tokenizer; its size."""
    from data_prep.sources.files import LARGEST_DOCUMENT

    folder.mkdir(parents=True)
    long: list[str] = []
    size = 0
    while size < LARGEST_DOCUMENT * 0.9:
        long.append(next(texts))
        size += len(json.dumps(long[-1]))
    with (folder / "one.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in ["\n".join(long), *others])
    return size


def stages(folder: Path, workers: int, vocab_size: int) -> dict[str, int]:
    """Runs all stages on ``folder/in``; the peak of each, in bytes."""
    at = {name: folder / name for name in ("in", "corpus", "clean", "dedup", "split", "tokenizer", "data")}
    train = at["split"] / "train"
    many = ("--workers", workers)
    commands: dict[str, tuple[object, ...]] = {
        "extract": ("--source", "jsonl", at["in"], "--out", at["corpus"], *many),
        "clean": (at["corpus"], "--out", at["clean"], *many),
        "dedup": (at["clean"], "--out", at["dedup"], *many),
        "split": (at["dedup"], "--out", at["split"], *many),
        "tokenizer": (train, "--out", at["tokenizer"], "--vocab-size", vocab_size),
        "binarize": (at["split"], "--tokenizer", at["tokenizer"], "--out", at["data"], *many),
    }
    return {stage: run(stage, *words) for stage, words in tqdm(commands.items(), desc=folder.name, unit="stage")}


def run(*arguments: object) -> int:
    """One command of data_prep; the peak of its largest process in bytes."""
    command = [sys.executable, "-m", "data_prep", *map(str, arguments)]
    peak = 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.02):
                peak = max([peak, *map(peak_of, with_children(process.pid))])

        watcher = threading.Thread(target=watch)
        watcher.start()
        output, _ = process.communicate()
        ended.set()
        watcher.join()
    if process.returncode:
        sys.exit(f"data_prep {arguments[0]} failed:\n{output}")
    return peak


def with_children(process: int) -> Iterator[int]:
    """A process and all below it."""
    yield process
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from with_children(int(child))


def peak_of(process: int) -> int:
    """The peak of a process so far, in bytes; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()

"""Speed of `data_prep binarize` beside sentencepiece followed by fairseq-preprocess, and beside sentencepiece alone.

    python recipes/measure/binarize_speed.py doc=wikipedia/ books=books/ --out RUN \\
        --report docs/benchmarks/data_prep/binarize.md

Every way runs in processes of its own, and all take turns on the same documents with the same tokenizer. What sentencepiece alone takes is the time within its encode function, the bound for everybody.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import sentencepiece

from data_prep.corpus import corpus_files, read_file
from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.study import Cells, Measurement, Results, in_a_process, markdown, rounds_of

ALONE, TWO, ONE, PIPELINE = "sentencepiece alone", "binarize", "binarize, 1 worker", "pipeline"


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="+", metavar="SOURCE=PATH", help="input of `data_prep extract`")
    parser.add_argument("--vocab-size", type=int, default=32000, help="of the tokenizer (default: %(default)s)")
    parser.add_argument("--copies", type=int, default=1, help="how often the text is taken (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes or threads of a way (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each way (default: %(default)s)")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    """Prepares the documents, and measures each way in turns."""
    out, workers = options.out, options.workers
    corpus, split, tokenizer = out / "corpus", out / "split", out / "tokenizer"
    for number, text in enumerate(options.text * options.copies):
        source, _, path = text.rpartition("=")
        data_prep("extract", "--source", source or "text", path, "--name", f"input{number}", "--out", corpus)
    data_prep("split", corpus, "--out", split, "--workers", workers)
    data_prep("tokenizer", split / "train", "--out", tokenizer, "--vocab-size", options.vocab_size)
    for name in ("train", "valid"):
        write_lines(split / name, out / f"{name}.txt")

    def binarize(processes: int) -> dict[str, float]:
        done = ["binarize", split, "--tokenizer", tokenizer, "--out", out / "data", "--workers", processes]
        return timed(partial(data_prep, *done), out / "data")

    def pipeline() -> dict[str, float]:
        pieces = in_a_process(encode_all, out, tokenizer, workers, True)()
        prefs = [f"--{name}pref={out / name}.pieces" for name in ("train", "valid")]
        dictionary = ["--srcdict", tokenizer / "dict.txt", "--destdir", out / "preprocessed"]
        program = Path(sys.executable).with_name("fairseq-preprocess")
        done = [program, "--only-source", *prefs, *dictionary, "--workers", workers]
        return {"seconds": pieces["with files"] + timed(partial(run, *done), out / "preprocessed")["seconds"]}

    alone = in_a_process(encode_all, out, tokenizer, workers, False)
    ways = {ALONE: alone, TWO: partial(binarize, workers), ONE: partial(binarize, 1), PIPELINE: pipeline}
    cells.turns(ways, options.rounds)


def encode_all(out: Path, tokenizer: Path, threads: int, write: bool) -> dict[str, float]:
    """Encodes all text with sentencepiece: tokens, bytes, seconds within encode, and those with reading and writing."""
    begun = time.perf_counter()

    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer / "sentencepiece.model"))
    tokens, size, seconds = 0, 0, 0.0
    for name in ("train", "valid"):
        text = (out / f"{name}.txt").read_text(encoding="utf-8")
        lines = text.split("\n")
        size += len(text.encode())
        with (out / f"{name}.pieces").open("w", encoding="utf-8") as file:
            for begin in range(0, len(lines), 10_000):
                start = time.perf_counter()
                kind = str if write else int
                encoded = processor.encode(lines[begin : begin + 10_000], num_threads=threads, out_type=kind)
                seconds += time.perf_counter() - start
                tokens += sum(map(len, encoded))
                if write:
                    file.writelines(" ".join(pieces) + "\n" for pieces in encoded)
    return {"tokens": tokens, "bytes": size, "seconds": seconds, "with files": time.perf_counter() - begun}


def timed(work: Callable[[], object], made: Path) -> dict[str, float]:
    """Seconds of `work`; the folder that it makes is deleted before and after."""
    shutil.rmtree(made, ignore_errors=True)
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    shutil.rmtree(made)
    return {"seconds": seconds}


def data_prep(*arguments: object) -> None:
    """One command of data_prep."""
    run(sys.executable, "-m", "data_prep", *arguments)


def run(*command: object) -> None:
    """Runs a command; its output is shown only if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{command[0]} failed:\n{done.stderr[-2000:]}")


def write_lines(corpus: Path, path: Path) -> None:
    """The paragraphs of a corpus, one a line, with an empty line between documents, as fairseq-preprocess wants it."""
    with path.open("w", encoding="utf-8") as file:
        for part in corpus_files(corpus):
            file.writelines(f"{document.text}\n\n" for document in read_file(part))


def table(results: Results) -> str:
    """Medians, and what the first way is to the others."""
    workers = results["settings"]["workers"]
    names = {
        ALONE: f"sentencepiece alone, {workers} threads, encode only",
        TWO: f"data_prep binarize, {workers} workers",
        ONE: "data_prep binarize, 1 worker",
        PIPELINE: f"sentencepiece to pieces, then fairseq-preprocess, {workers} workers",
    }
    seconds = {way: [run["seconds"] for run in rounds_of(results["cells"], way)] for way in names}
    bare, ours, one, slow = (median(times) for times in seconds.values())
    first = rounds_of(results["cells"], ALONE)[0]
    rows = []
    for way, times in seconds.items():
        spread = f"{median(times):.2f} ({min(times):.2f}-{max(times):.2f})"
        rows.append([names[way], spread, f"{first['tokens'] / median(times) / 1e6:.2f}"])
    return (
        f"{first['bytes'] / 1e6:.1f} MB of text, {first['tokens'] / 1e6:.2f} M tokens; medians of "
        f"{len(seconds[ALONE])} rounds (lowest-highest).\n\n"
        + markdown(["way", "seconds", "M tokens/s"], rows)
        + f"\nbinarize is {slow / ours:.1f} times as fast as the pipeline through pieces, reaches {bare / ours:.0%} of "
        f"sentencepiece alone, and is {one / ours:.2f} times as fast as with one worker.\n"
    )


MEASUREMENT = Measurement(*(__file__, __doc__, flags, measure, table), quick={"vocab_size": 300, "rounds": 1})

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

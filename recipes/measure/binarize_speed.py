"""Speed of `data_prep binarize` beside sentencepiece followed by fairseq-preprocess, and beside sentencepiece alone.

    python recipes/measure/binarize_speed.py doc=wikipedia/ books=books/ --out RUN \\
        --report docs/benchmarks/data_prep/binarize.md

All ways take turns on the same documents with the same tokenizer. What sentencepiece alone takes is the time within its
encode function, the bound for everybody.
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

import sentencepiece

from data_prep.corpus import corpus_files, read_file
from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.study import Cells, Measurement, comparison, in_a_process

SPLITS = ("train", "valid")


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
    data_prep = (sys.executable, "-m", "data_prep")
    for number, text in enumerate(options.text * options.copies):
        source, _, path = text.rpartition("=")
        run(*data_prep, "extract", "--source", source or "text", path, "--name", f"input{number}", "--out", corpus)
    run(*data_prep, "split", corpus, "--out", split, "--workers", workers)
    run(*data_prep, "tokenizer", split / "train", "--out", tokenizer, "--vocab-size", options.vocab_size)

    def binarize(processes: int) -> dict[str, float]:
        shutil.rmtree(out / "data", ignore_errors=True)
        flags = ("--tokenizer", tokenizer, "--out", out / "data", "--workers", processes)
        return {"seconds": run(*data_prep, "binarize", split, *flags)}

    def pipeline() -> dict[str, float]:
        pieces = in_a_process(encode, out, workers, True)()
        shutil.rmtree(out / "preprocessed", ignore_errors=True)
        flags = ("--srcdict", tokenizer / "dict.txt", "--destdir", out / "preprocessed", "--workers", workers)
        prefs = (f"--{name}pref={out / name}.pieces" for name in SPLITS)
        program = Path(sys.executable).with_name("fairseq-preprocess")
        return {"seconds": pieces["s with files"] + run(program, "--only-source", *prefs, *flags)}

    ways: dict[str, Callable[[], dict[str, float]]] = {
        "sentencepiece alone, encode only": in_a_process(encode, out, workers, False),
        "data_prep binarize": partial(binarize, workers),
        "data_prep binarize, 1 worker": partial(binarize, 1),
        "sentencepiece to pieces, then fairseq-preprocess": pipeline,
    }
    cells.turns(ways, options.rounds)


def encode(out: Path, threads: int, write: bool) -> dict[str, float]:
    """Encodes all text with sentencepiece: tokens, bytes, seconds within encode, and those with reading and writing.

    Pieces are written one paragraph a line, with an empty line between documents, as fairseq-preprocess wants it.
    """
    begun = time.perf_counter()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer/sentencepiece.model"))
    tokens, size, seconds = 0, 0, 0.0
    for name in SPLITS:
        with (out / f"{name}.pieces").open("w", encoding="utf-8") as file:
            documents = (document.text for part in corpus_files(out / "split" / name) for document in read_file(part))
            text = "".join(f"{document}\n\n" for document in documents)
            lines = text.split("\n")
            size += len(text.encode())
            for begin in range(0, len(lines), 10_000):
                start = time.perf_counter()
                kind = str if write else int
                encoded = processor.encode(lines[begin : begin + 10_000], num_threads=threads, out_type=kind)
                seconds += time.perf_counter() - start
                tokens += sum(map(len, encoded))
                if write:
                    file.writelines(" ".join(pieces) + "\n" for pieces in encoded)
    whole = time.perf_counter() - begun
    return {"seconds": seconds, "M tokens": tokens / 1e6, "MB of text": size / 1e6, "s with files": whole}


def run(*command: object) -> float:
    """Seconds of a command; its output is shown only if it fails."""
    start = time.perf_counter()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


TABLE = comparison(
    "Speed of binarizing", "Times are whole processes, that of sentencepiece alone its encode function.", "seconds"
)
MEASUREMENT = Measurement(__file__, __doc__, flags, measure, TABLE, quick={"vocab_size": 512, "rounds": 1})

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

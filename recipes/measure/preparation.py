"""Data preparation: speed of extraction and of binarizing beside other ways, and peak memory of each stage (Linux).

    python recipes/measure/preparation.py extraction DUMP --out RUN --report docs/benchmarks/data_prep/extraction.md
    python recipes/measure/preparation.py binarizing doc=wikipedia/ books=books/ --out RUN \\
        --report docs/benchmarks/data_prep/binarize.md
    python recipes/measure/preparation.py memory doc=wikipedia/ books=books/ --vocab-size 8192 --out RUN \\
        --report docs/benchmarks/data_prep/memory.md

extraction: beside mwparserfromhell's parse and strip_code, on one core and the same first articles of a MediaWiki dump.
binarizing: beside sentencepiece followed by fairseq-preprocess, and beside the time within sentencepiece's encode
function, the bound for everybody; all take turns on the same documents with the same tokenizer.
memory: of any one process, for corpora of several sizes, which continue with copies of the given documents, the words
of each paragraph shuffled, so that none is a duplicate; and for one document as large as extract lets through.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path

import mwparserfromhell
import sentencepiece

from data_prep.corpus import corpus_files, read_file
from data_prep.sources import ReadErrors, dump, wikipedia
from data_prep.sources.files import LARGEST_DOCUMENT
from data_prep.sources.wikitext import dropped_namespaces, prose
from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.study import Cells, Measurement, Work, comparison, in_a_process

OURS, OTHER = "data_prep (prose)", "mwparserfromhell (parse, strip_code)"
SPLITS = ("train", "valid")
MEGABYTE = 1_000_000
# Runs a command; prints its seconds, and the bytes at the peak of its largest descendant. Those whose parent has ended
# become children of this process (PR_SET_CHILD_SUBREAPER is 36), which is small: a process counts the memory of the
# one that it was forked from.
WATCH = """
import ctypes, os, resource, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1)
start = time.perf_counter()
status = subprocess.call(sys.argv[1:], stdout=sys.stderr)
print(time.perf_counter() - start)
try:
    while True:
        os.wait()
except ChildProcessError:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(status)
"""


def flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("what", choices=list(KINDS), help="what is measured")
    add("input", nargs="+", help="a MediaWiki XML dump (plain, .bz2, .gz, .xz), or SOURCE=PATH of `data_prep extract`")
    add("--rounds", type=int, default=5, help="of each way (default: %(default)s)")
    add("--pages", type=int, default=200, help="articles to extract (default: %(default)s)")
    add("--vocab-size", type=int, default=32000, help="of the tokenizer (default: %(default)s)")
    add("--workers", type=int, default=2, help="processes or threads of a way or stage (default: %(default)s)")
    add("--sizes", type=int, nargs="+", default=[10, 100, 400], help="MB, of memory (default: 10 100 400)")
    add("--largest", type=int, default=int(LARGEST_DOCUMENT * 0.9), help="bytes of the one document, of memory")


def extraction(options: argparse.Namespace, cells: Cells) -> None:
    path = Path(options.input[0])
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a MediaWiki XML dump")
    cells.turns({name: in_a_process(extract, name, path, options.pages) for name in (OTHER, OURS)}, options.rounds)


def extract(name: str, path: Path, pages: int) -> dict[str, float]:
    """Speed of one extraction of all articles."""
    names = dump.header(path).namespaces
    dropped = dropped_namespaces(names)
    found = (page for piece in wikipedia.pieces(path) for page in dump.pages(piece, names, ReadErrors()))
    articles = [page.text for page in islice((p for p in found if not p.namespace and not p.redirect), pages)]
    if not articles:
        raise UsageError(f"{path}: no articles in it")
    start = time.perf_counter()
    for text in articles:
        if name == OURS:
            prose(text, dropped)
        else:
            mwparserfromhell.parse(text).strip_code()
    seconds = time.perf_counter() - start
    megabytes = sum(len(text.encode()) for text in articles) / MEGABYTE
    return {"articles": len(articles), "pages/s": len(articles) / seconds, "MB/s": megabytes / seconds}


def binarizing(options: argparse.Namespace, cells: Cells) -> None:
    out, workers = options.out, options.workers
    split, tokenizer, data, preprocessed = (out / name for name in ("split", "tokenizer", "data", "preprocessed"))
    data_prep("split", given(options), "--out", split, "--workers", workers)
    data_prep("tokenizer", split / "train", "--out", tokenizer, "--vocab-size", options.vocab_size)

    def binarize(processes: int) -> dict[str, float]:
        shutil.rmtree(data, ignore_errors=True)
        flags = ("--tokenizer", tokenizer, "--out", data, "--workers", processes)
        return {"seconds": data_prep("binarize", split, *flags)[0]}

    def pipeline() -> dict[str, float]:
        pieces = in_a_process(encode, out, workers, True)()
        shutil.rmtree(preprocessed, ignore_errors=True)
        flags = ("--srcdict", tokenizer / "dict.txt", "--destdir", preprocessed, "--workers", workers)
        prefs = (f"--{name}pref={out / name}.pieces" for name in SPLITS)
        program = Path(sys.executable).with_name("fairseq-preprocess")
        return {"seconds": pieces["s with files"] + run(program, "--only-source", *prefs, *flags)[0]}

    ways: dict[str, Work] = {"sentencepiece alone, encode only": in_a_process(encode, out, workers, False)}
    ways |= {"data_prep binarize": partial(binarize, workers), "data_prep binarize, 1 worker": partial(binarize, 1)}
    cells.turns(ways | {"sentencepiece to pieces, then fairseq-preprocess": pipeline}, options.rounds)


def encode(out: Path, threads: int, write: bool) -> dict[str, float]:
    """Encodes all text with sentencepiece: tokens, bytes, seconds within encode, and those with reading and writing.

    Pieces are written one paragraph a line, with an empty line between documents, as fairseq-preprocess wants it.
    """
    begun = time.perf_counter()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer/sentencepiece.model"))
    tokens, size, seconds = 0, 0, 0.0
    for name in SPLITS:
        with (out / f"{name}.pieces").open("w", encoding="utf-8") as file:
            text = "".join(f"{document}\n\n" for document in texts_of(out / "split" / name))
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


def memory(options: argparse.Namespace, cells: Cells) -> None:
    texts = list(texts_of(given(options)))
    work = {f"{size} MB": partial(stages, options, texts, size * MEGABYTE) for size in options.sizes}
    largest = f"one document of {options.largest / MEGABYTE:.0f} MB"
    cells.run(work | {largest: partial(stages, options, texts, options.largest, one=True)})


def stages(options: argparse.Namespace, texts: list[str], size: int, one: bool = False) -> dict[str, int]:
    """Runs all stages on a corpus of `size` bytes, many documents or one; the peak of each in MB."""
    folder = options.out / "corpus"
    shutil.rmtree(folder, ignore_errors=True)
    write_jsonl(folder / "given", texts, size, one)
    many = ("--workers", options.workers)
    stages: dict[str, tuple[object, ...]] = {
        "extract": ("--source", "jsonl", folder / "given", *many),
        "clean": (folder / "extract", *many),
        "dedup": (folder / "clean", *many),
        "split": (folder / "dedup", *many),
        "tokenizer": (folder / "split/train", "--vocab-size", options.vocab_size),
        "binarize": (folder / "split", "--tokenizer", folder / "tokenizer", *many),
    }
    peaks = {name: data_prep(name, *words, "--out", folder / name)[1] for name, words in stages.items()}
    shutil.rmtree(folder)
    return {name: round(peak / MEGABYTE) for name, peak in peaks.items()}


def write_jsonl(folder: Path, texts: list[str], size: int, one: bool) -> None:
    """Documents of `size` bytes in files of 10,000; or one such document, beside small ones for the tokenizer."""
    documents = list(varied(texts, size))
    if one:
        documents = ["\n".join(documents), *texts[:200]]
    folder.mkdir(parents=True)
    for begin in range(0, len(documents), 10_000):
        lines = (json.dumps({"text": text}) + "\n" for text in documents[begin : begin + 10_000])
        (folder / f"{begin:09d}.jsonl").write_text("".join(lines), encoding="utf-8")


def varied(texts: list[str], size: int) -> Iterator[str]:
    """The texts, and then again and again with their words shuffled, until there are `size` characters."""
    for seed in count():
        chance = random.Random(seed)
        for text in chance.sample(texts, len(texts)):
            lines = (line.split() for line in text.split("\n"))
            yield "\n".join(" ".join(chance.sample(words, len(words))) for words in lines) if seed else text
            size -= len(text)
            if size <= 0:
                return


def given(options: argparse.Namespace) -> Path:
    """A corpus of the documents that are given."""
    corpus: Path = options.out / "given"
    for number, word in enumerate(options.input):
        source, _, path = word.rpartition("=")
        data_prep("extract", "--source", source or "text", path, "--name", f"input{number}", "--out", corpus)
    return corpus


def texts_of(corpus: Path) -> Iterator[str]:
    return (document.text for file in corpus_files(corpus) for document in read_file(file))


def data_prep(*arguments: object) -> tuple[float, int]:
    return run(sys.executable, "-m", "data_prep", *arguments)


def run(*command: object) -> tuple[float, int]:
    """Seconds of a command, and bytes at the peak of its largest process; its output is shown only if it fails."""
    done = subprocess.run([sys.executable, "-c", WATCH, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{' '.join(map(str, command[:4]))} failed:\n{done.stderr[-2000:]}")
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


# What is measured -> how, and the table of the results.
KINDS = {
    "extraction": (extraction, comparison("Extraction of wikitext on one core", relative="MB/s")),
    "binarizing": (binarizing, comparison("Speed of binarizing", "Seconds are of whole processes.", "seconds")),
    "memory": (memory, comparison("Peak memory of data_prep", "Of the largest process of each stage, in MB.")),
}


MEASUREMENT = Measurement(
    *(__file__, __doc__, flags),
    measure=lambda options, cells: KINDS[options.what][0](options, cells),
    table=lambda results: KINDS[results["settings"]["what"]][1](results),
    quick={"rounds": 1, "pages": 2, "vocab_size": 512, "sizes": [1], "largest": MEGABYTE},
    choices=("sizes", "largest"),
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

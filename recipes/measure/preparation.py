"""Data preparation: speed of extraction and of binarizing beside other ways, and the cost of each stage by size.

    python recipes/measure/preparation.py extraction DUMP --out RUN --report docs/benchmarks/data_prep/extraction.md
    python recipes/measure/preparation.py binarizing doc=wikipedia/ books=books/ --out RUN \\
        --report docs/benchmarks/data_prep/binarize.md
    python recipes/measure/preparation.py cost --out RUN --report docs/benchmarks/data_prep/cost.md

extraction: beside mwparserfromhell's parse and strip_code, on one core and the same first articles of a MediaWiki dump.
binarizing: beside sentencepiece followed by fairseq-preprocess, and beside the time within sentencepiece's encode
function, the bound for everybody; all take turns on the same documents with the same tokenizer.
cost: processor time and bytes of each stage, in one process, for made-up corpora of several sizes (--documents, --mb),
with fitted exponents and what 1 TB would need; and for several numbers of files, in turns, the median of --rounds.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import mwparserfromhell
import numpy as np
import sentencepiece

from data_prep import binarize, clean, dedup, extract, split, tokenizer
from data_prep.config import ReadingConfig, SourceConfig, TokenizerConfig
from data_prep.corpus import corpus_files, read_file
from data_prep.pipeline import PipelineConfig
from data_prep.sources import ReadErrors, dump, wikipedia
from data_prep.sources.mediawiki import wiki
from data_prep.sources.wikitext import Page, prose
from data_prep.text.minhash import NearDuplicates
from data_prep.text.rules import CleanConfig
from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.study import (
    Cells,
    Measurement,
    Results,
    Work,
    comparison,
    heading,
    in_a_process,
    markdown,
    rounds_of,
    spread,
)

OURS, OTHER = "data_prep (prose)", "mwparserfromhell (parse, strip_code)"
SPLITS = ("train", "valid")
UNDIVIDED = """Minutes are core-hours divided by the cores. Less divided are parts of dedup: one process copies all
signatures, 512 bytes a document, and the comparison has 16 tasks, one a band, at an estimated 50 bytes a document."""
STAGES = ("extract", "clean", "dedup", "split", "tokenizer", "binarize")
FILE_CHARACTERS = 8_000_000
NODES, CORES = 100, 1600
COST = """Processor time of one process, not time by the clock: the machine was busy with other work. Made-up text, of
which one document in ten nearly repeats another; `clean` takes longer for text with faults. Training the tokenizer is
left out: it takes a minute at most, for any size."""


class Inputs(argparse.Action):
    """What is measured on, refused before anything is written."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        if not values and namespace.what != "cost":
            parser.error(f"{namespace.what} needs an input: a MediaWiki XML dump, or SOURCE=PATH")
        namespace.input = values


def flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("what", choices=list(KINDS), help="what is measured")
    add(
        "input",
        nargs="*",
        action=Inputs,
        help="a MediaWiki XML dump (plain, .bz2, .gz, .xz), or SOURCE=PATH of `data_prep extract`",
    )
    add("--rounds", type=int, default=5, help="of each way (default: %(default)s)")
    add("--pages", type=int, default=200, help="articles to extract (default: %(default)s)")
    add("--vocab-size", type=int, default=32000, help="of the tokenizer (default: %(default)s)")
    add("--documents", type=int, nargs="+", default=[75_000, 300_000], help="of 400 characters, of cost (%(default)s)")
    add("--mb", type=int, nargs="+", default=[100, 400], help="of documents of 4,000 characters (%(default)s)")
    add("--files", type=int, nargs="+", default=[500, 1000], help="of 40 documents of 400 characters (%(default)s)")
    add("--workers", type=int, default=2, help="processes or threads of a way (default: %(default)s)")


def extraction(options: argparse.Namespace, cells: Cells) -> None:
    path = Path(options.input[0])
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a MediaWiki XML dump")
    cells.turns(
        {name: in_a_process(extract_pages, name, path, options.pages) for name in (OTHER, OURS)}, options.rounds
    )


def extract_pages(name: str, path: Path, pages: int) -> dict[str, float]:
    """Speed of one extraction of all articles."""
    names = dump.header(path).namespaces
    context = Page(wiki(dump.header(path).language, names))
    found = (page for piece in wikipedia.pieces(path) for page in dump.pages(piece, names, ReadErrors()))
    articles = [page.text for page in islice((p for p in found if not p.namespace and not p.redirect), pages)]
    if not articles:
        raise UsageError(f"{path}: no articles in it")
    start = time.perf_counter()
    for text in articles:
        if name == OURS:
            prose(text, context)
        else:
            mwparserfromhell.parse(text).strip_code()
    seconds = time.perf_counter() - start
    megabytes = sum(len(text.encode()) for text in articles) / 1e6
    return {"articles": len(articles), "pages/s": len(articles) / seconds, "MB/s": megabytes / seconds}


def binarizing(options: argparse.Namespace, cells: Cells) -> None:
    out, workers = options.out, options.workers
    split, tokenizer, data, preprocessed = (out / name for name in ("split", "tokenizer", "data", "preprocessed"))
    corpus = out / "given"
    for number, word in enumerate(options.input):
        source, _, path = word.rpartition("=")
        data_prep("extract", "--source", source or "text", path, "--name", f"input{number}", "--out", corpus)
    data_prep("split", corpus, "--out", split, "--workers", workers)
    data_prep("tokenizer", split / "train", "--out", tokenizer, "--vocab-size", options.vocab_size)

    def binarize(processes: int) -> dict[str, float]:
        shutil.rmtree(data, ignore_errors=True)
        flags = ("--tokenizer", tokenizer, "--out", data, "--workers", processes)
        return {"seconds": data_prep("binarize", split, *flags)}

    def pipeline() -> dict[str, float]:
        pieces = in_a_process(encode, out, workers, True)()
        shutil.rmtree(preprocessed, ignore_errors=True)
        flags = ("--srcdict", tokenizer / "dict.txt", "--destdir", preprocessed, "--workers", workers)
        prefs = (f"--{name}pref={out / name}.pieces" for name in SPLITS)
        program = Path(sys.executable).with_name("fairseq-preprocess")
        return {"seconds": pieces["s with files"] + run(program, "--only-source", *prefs, *flags)}

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
            documents = (document for part in corpus_files(out / "split" / name) for document in read_file(part))
            text = "".join(f"{document.text}\n\n" for document in documents)
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


def cost(options: argparse.Namespace, cells: Cells) -> None:
    """Every stage over each corpus, which are made of the same words."""
    corpora = [(f"{n:,} documents", n, 400) for n in options.documents]
    corpora += [(f"{n:,} MB", n * 250, 4000) for n in options.mb]
    for name, documents, characters in corpora:
        folder = options.out / name.replace(" ", "-")
        make = in_a_process(texts, folder / "texts.jsonl", documents, characters)
        arguments = (folder, FILE_CHARACTERS, options.vocab_size)
        stages = {stage: in_a_process(stage_cost, stage, *arguments) for stage in STAGES}
        cells.run({f"{name}, {stage}": work for stage, work in {"texts": make, **stages}.items()})
        shutil.rmtree(folder, ignore_errors=True)  # its figures are kept
    arguments = (options.files, options.out / "files", min(options.vocab_size, 4096))  # little text, small vocabulary
    cells.turns({"files": in_a_process(files_cost, *arguments)}, options.rounds)


def files_cost(files: list[int], folder: Path, vocab_size: int) -> dict[str, list[float]]:
    """Processor time of each stage over so many files of 40 documents of 400 characters, one size after the other."""
    shutil.rmtree(folder, ignore_errors=True)
    for n in files:
        texts(folder / str(n) / "texts.jsonl", n * 40, 400)
    arguments = (40 * 400 - 80, vocab_size)
    found = {s: [stage_cost(s, folder / str(n), *arguments)["seconds"] for n in files] for s in STAGES}
    shutil.rmtree(folder)
    return found


def texts(path: Path, documents: int, characters: int) -> dict[str, int]:
    """Write documents of words as frequent as those of a language; one in ten nearly repeats an earlier one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(1)
    letters = chance.choice(list("etaoinshrdlucmfwygpbvk"), (50_000, 12)).tolist()
    lengths = chance.integers(2, 12, 50_000).tolist()
    words = np.array(["".join(row[:length]) for row, length in zip(letters, lengths, strict=True)])
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for number in range(documents):
            repeats = number % 10 == 9
            of_text = np.random.default_rng([2, number // 20 * 10 + 3 if repeats else number])
            chosen = words[np.minimum(of_text.zipf(1.2, characters // 4), len(words)) - 1]
            chosen[0] = "again" if repeats else chosen[0]
            lines = (" ".join(line) + "." for line in np.array_split(chosen, characters // 400))
            row = {"id": str(number), "text": "\n".join(lines)[:characters]}
            size += file.write(json.dumps(row) + "\n")
    return {"documents": documents, "bytes": size}


def stage_cost(stage: str, folder: Path, file_characters: int, vocab_size: int) -> dict[str, float]:
    """Processor time of a stage in this process, and the bytes and files that it leaves."""
    settings = PipelineConfig()
    reading = ReadingConfig(file_characters=file_characters)
    source = SourceConfig("jsonl", [str(folder / "texts.jsonl")])
    at = {name: folder / name for name in STAGES}
    work: dict[str, Callable[[], object]] = {
        "extract": lambda: extract.extract(source, at["extract"], reading, 0),
        "clean": lambda: clean.clean(at["extract"], at["clean"], CleanConfig(), 0),
        "dedup": lambda: dedup.dedup(at["clean"], at["dedup"], NearDuplicates(), 0),
        "split": lambda: split.split(at["dedup"], at["split"], settings.split, 0),
        "tokenizer": lambda: tokenizer.make_tokenizer(
            at["split"] / "train", at["tokenizer"], TokenizerConfig(vocab_size), 0
        ),
        "binarize": lambda: binarize.binarize(at["split"], at["tokenizer"], at["binarize"], settings.binarize, 0),
    }
    start = time.process_time()
    work[stage]()
    seconds = time.process_time() - start
    made = [path for path in at[stage].rglob("*") if path.is_file()]
    return {"seconds": seconds, "bytes": sum(path.stat().st_size for path in made), "files": len(made)}


def cost_table(results: Results) -> str:
    """The cost of each stage: per document, per byte, by number of files, and of 1 TB."""
    cells, settings = results["cells"], results["settings"]
    text = heading("Cost of data preparation", results, COST)
    for unit, key, scale, what in (("documents", "documents", 1e6, "µs a document"), ("MB", "mb", 1e3, "s per GB")):
        sizes = settings[key]
        rows = []
        for stage in STAGES:
            found = [cells[f"{size:,} {unit}, {stage}"] for size in sizes]
            each = [f"{cell['seconds'] / size * scale:,.0f}" for size, cell in zip(sizes, found, strict=True)]
            made = cells[f"{sizes[-1]:,} {unit}, texts"]["bytes"] if unit == "MB" else sizes[-1]
            bytes_ = f"{found[-1]['bytes'] / made:,.2f}" if unit == "MB" else f"{found[-1]['bytes'] / made:,.0f}"
            fitted = np.polyfit(np.log(sizes), np.log([cell["seconds"] for cell in found]), 1)[0] if sizes[1:] else 1
            rows.append([stage, *each, bytes_, f"{fitted:.2f}"])
        header = [
            "stage",
            *(f"{what}, {size:,} {unit}" for size in sizes),
            f"bytes a {'byte' * (unit == 'MB') or unit[:-1]}",
        ]
        text += markdown([*header, "exponent"], rows) + "\n"
    files = settings["files"]
    rows = []
    for stage in STAGES:
        by_size = list(zip(*(one[stage] for one in rounds_of(cells, "files")), strict=True))
        ratios = [last / first for first, last in zip(by_size[0], by_size[-1], strict=True)]
        rows.append([stage, *map(spread, by_size), spread(ratios)])
    text += markdown(["stage", *(f"s, {n:,} files" for n in files), "ratio"], rows) + "\n"
    largest = max(settings["mb"])
    hours = {s: cells[f"{largest:,} MB, {s}"]["seconds"] / largest * 1e6 / 3600 for s in STAGES if s != "tokenizer"}
    rows = [
        [s, f"{found:,.0f}", f"{found / CORES * 60:,.1f}"]
        for s, found in [*hours.items(), ("all", sum(hours.values()))]
    ]
    return (
        text
        + f"1 TB by these figures, on {NODES} nodes of {CORES // NODES} cores. {UNDIVIDED}\n\n"
        + markdown(["stage", "core-hours", "minutes"], rows)
    )


def data_prep(*arguments: object) -> float:
    return run(sys.executable, "-m", "data_prep", *arguments)


def run(*command: object) -> float:
    """Seconds of a command, whose output is shown only if it fails."""
    start = time.perf_counter()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{' '.join(map(str, command[:4]))} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


# What is measured -> how, and the table of the results.
KINDS = {
    "extraction": (extraction, comparison("Extraction of wikitext on one core", relative="MB/s")),
    "cost": (cost, cost_table),
    "binarizing": (binarizing, comparison("Speed of binarizing", "Seconds are of whole processes.", "seconds")),
}
MEASUREMENT = Measurement(
    *(__file__, __doc__, flags),
    measure=lambda options, cells: KINDS[options.what][0](options, cells),
    table=lambda results: KINDS[results["settings"]["what"]][1](results),
    quick={"rounds": 1, "pages": 2, "vocab_size": 512, "documents": [100], "mb": [1], "files": [2, 4]},
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

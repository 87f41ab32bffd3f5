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
from linformer_fairseq.measuring import study
from linformer_fairseq.measuring.study import Cells, Options, Results, Work, flag, markdown, plain

OURS, OTHER = "data_prep (prose)", "mwparserfromhell (parse, strip_code)"
SPLITS = ("train", "valid")
STAGES = ("extract", "clean", "dedup", "split", "tokenizer", "binarize")
NODES, CORES = 100, 1600
COST = """Processor time of one process, not time by the clock: the machine was busy with other work. Made-up text, of
which one document in ten nearly repeats another; `clean` takes longer for text with faults. Training the tokenizer is
left out: it takes a minute at most, for any size."""
UNDIVIDED = """Minutes are core-hours divided by the cores. Less divided are parts of dedup: one process copies all
signatures, 512 bytes a document, and the comparison has 16 tasks, one a band, at an estimated 50 bytes a document."""


def extraction(options: Options, cells: Cells) -> None:
    path = Path(options.input[0])
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a MediaWiki XML dump")
    work = {name: study.in_a_process(extract_pages, name, path, options.pages) for name in (OTHER, OURS)}
    cells.turns(work, options.rounds)


def extract_pages(name: str, path: Path, pages: int) -> dict[str, float]:
    """Speed of one extraction of all articles."""
    names = dump.header(path).namespaces
    context = Page(wiki(dump.header(path).language, names))
    found = (page for piece in wikipedia.pieces(path) for page in dump.pages(piece, names, ReadErrors()))
    articles = [page.text for page in islice((p for p in found if not p.namespace and not p.redirect), pages)]
    if not articles:
        raise UsageError(f"{path}: no articles in it")
    one: Callable[[str], object]
    one = (
        (lambda text: prose(text, context)) if name == OURS else lambda text: mwparserfromhell.parse(text).strip_code()
    )
    seconds = study.seconds(lambda: [one(text) for text in articles])
    megabytes = sum(len(text.encode()) for text in articles) / 1e6
    return {"articles": len(articles), "pages/s": len(articles) / seconds, "MB/s": megabytes / seconds}


def binarizing(options: Options, cells: Cells) -> None:
    out, workers = options.out, options.workers
    prep = sys.executable, "-m", "data_prep"
    for number, word in enumerate(options.input):
        source, _, path = word.rpartition("=")
        run(*prep, "extract", "--source", source or "text", path, "--name", f"input{number}", "--out", out / "given")
    run(*prep, "split", out / "given", "--out", out / "split", "--workers", workers)
    run(*prep, "tokenizer", out / "split/train", "--out", out / "tokenizer", "--vocab-size", options.vocab_size)

    def ours(processes: int) -> dict[str, float]:
        shutil.rmtree(out / "data", ignore_errors=True)
        flags = ("--tokenizer", out / "tokenizer", "--out", out / "data", "--workers", processes)
        return {"seconds": run(*prep, "binarize", out / "split", *flags)}

    def pipeline() -> dict[str, float]:
        pieces = study.in_a_process(encode, out, workers, True)()
        shutil.rmtree(out / "preprocessed", ignore_errors=True)
        flags = ("--srcdict", out / "tokenizer/dict.txt", "--destdir", out / "preprocessed", "--workers", workers)
        prefs = (f"--{name}pref={out / name}.pieces" for name in SPLITS)
        program = Path(sys.executable).with_name("fairseq-preprocess")
        return {"seconds": pieces["s with files"] + run(program, "--only-source", *prefs, *flags)}

    ways: dict[str, Work] = {"sentencepiece alone, encode only": study.in_a_process(encode, out, workers, False)}
    ways |= {"data_prep binarize": partial(ours, workers), "data_prep binarize, 1 worker": partial(ours, 1)}
    cells.turns(ways | {"sentencepiece to pieces, then fairseq-preprocess": pipeline}, options.rounds)


def run(*command: object) -> float:
    """Seconds of a command, whose output is shown only if it fails."""
    start = time.perf_counter()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{' '.join(map(str, command[:4]))} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def encode(out: Path, threads: int, write: bool) -> dict[str, float]:
    """Encodes all text with sentencepiece: tokens, bytes, seconds within encode, and those with reading and writing.

    Pieces are written one paragraph a line, with an empty line between documents, as fairseq-preprocess wants it.
    """
    begun = time.perf_counter()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer/sentencepiece.model"))
    tokens, size, seconds = 0, 0, 0.0
    for name in SPLITS:
        documents = (document for part in corpus_files(out / "split" / name) for document in read_file(part))
        text = "".join(f"{document.text}\n\n" for document in documents)
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
    whole = time.perf_counter() - begun
    return {"seconds": seconds, "M tokens": tokens / 1e6, "MB of text": size / 1e6, "s with files": whole}


def cost(options: Options, cells: Cells) -> None:
    """Every stage over each corpus, which are made of the same words."""
    corpora = [(f"{n:,} documents", n, 400) for n in options.documents]
    corpora += [(f"{n:,} MB", n * 250, 4000) for n in options.mb]
    for name, documents, characters in corpora:
        folder = options.out / name.replace(" ", "-")
        work = {f"{name}, texts": study.in_a_process(texts, folder / "texts.jsonl", documents, characters)}
        for stage in STAGES:
            work[f"{name}, {stage}"] = study.in_a_process(stage_cost, stage, folder, 8_000_000, options.vocab_size)
        cells.run(work)
        shutil.rmtree(folder, ignore_errors=True)  # its figures are kept
    arguments = (options.files, options.out / "files", min(options.vocab_size, 4096))  # little text, small vocabulary
    cells.turns({"files": study.in_a_process(files_cost, *arguments)}, options.rounds)


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
    settings, reading = PipelineConfig(), ReadingConfig(file_characters=file_characters)
    source = SourceConfig("jsonl", [str(folder / "texts.jsonl")])
    before = {name: folder / earlier for earlier, name in zip(STAGES, STAGES[1:], strict=False)}.get(stage, folder)
    out, tokens = folder / stage, TokenizerConfig(vocab_size)
    work: dict[str, Callable[[], object]] = {
        "extract": lambda: extract.extract(source, out, reading, 0),
        "clean": lambda: clean.clean(before, out, CleanConfig(), 0),
        "dedup": lambda: dedup.dedup(before, out, NearDuplicates(), 0),
        "split": lambda: split.split(before, out, settings.split, 0),
        "tokenizer": lambda: tokenizer.make_tokenizer(before / "train", out, tokens, 0),
        "binarize": lambda: binarize.binarize(folder / "split", before, out, settings.binarize, 0),
    }
    seconds = study.seconds(work[stage], time.process_time)
    made = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    return {"seconds": seconds, "bytes": sum(made), "files": len(made)}


def cost_table(results: Results) -> str:
    """The cost of each stage: per document, per byte, by number of files, and of 1 TB."""
    cells, settings = results["cells"], results["settings"]
    text = study.heading("Cost of data preparation", results, COST)
    for unit, one, sizes, scale, what in (
        ("documents", "document", settings["documents"], 1e6, "µs a document"),
        ("MB", "byte", settings["mb"], 1e3, "s per GB"),
    ):
        rows = []
        for stage in STAGES:
            found = [cells[f"{size:,} {unit}, {stage}"] for size in sizes]
            each = [f"{cell['seconds'] / size * scale:,.0f}" for size, cell in zip(sizes, found, strict=True)]
            of = found[-1]["bytes"] / cells[f"{sizes[-1]:,} {unit}, texts"]["bytes" if unit == "MB" else "documents"]
            fitted = np.polyfit(np.log(sizes), np.log([cell["seconds"] for cell in found]), 1)[0] if sizes[1:] else 1
            rows.append([stage, *each, f"{of:,.2f}" if unit == "MB" else f"{of:,.0f}", f"{fitted:.2f}"])
        columns = [f"{what}, {size:,} {unit}" for size in sizes]
        text += markdown(["stage", *columns, f"bytes a {one}", "exponent"], rows) + "\n"
    rows = []
    for stage in STAGES:
        rounds = [one[stage] for one in study.rounds_of(cells, "files")]
        ratios = [found[-1] / found[0] for found in rounds]
        rows.append([stage, *map(study.spread, zip(*rounds, strict=True)), study.spread(ratios)])
    text += markdown(["stage", *(f"s, {n:,} files" for n in settings["files"]), "ratio"], rows) + "\n"
    most = max(settings["mb"])
    hours = {s: cells[f"{most:,} MB, {s}"]["seconds"] / most * 1e6 / 3600 for s in STAGES if s != "tokenizer"}
    rows = [[s, f"{h:,.0f}", f"{h / CORES * 60:,.1f}"] for s, h in (hours | {"all": sum(hours.values())}).items()]
    text += f"1 TB by these figures, on {NODES} nodes of {CORES // NODES} cores. {UNDIVIDED}\n\n"
    return text + markdown(["stage", "core-hours", "minutes"], rows)


class Inputs(argparse.Action):
    """What is measured on, refused before anything is written."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        if not values and namespace.what != "cost":
            parser.error(f"{namespace.what} needs an input: a MediaWiki XML dump, or SOURCE=PATH")
        namespace.input = values


# What is measured -> how, and the table of the results.
KINDS = {
    "extraction": (extraction, study.comparison("Extraction of wikitext on one core", relative="MB/s")),
    "cost": (cost, cost_table),
    "binarizing": (binarizing, study.comparison("Speed of binarizing", "Seconds are of whole processes.", "seconds")),
}
INPUT = "a MediaWiki XML dump (plain, .bz2, .gz, .xz), or SOURCE=PATH of `data_prep extract`"
FLAGS = [
    flag("what", str, "what is measured", choices=list(KINDS)),
    flag("input", [str], INPUT, nargs="*", action=Inputs),
    flag("--documents", [75_000, 300_000], "of 400 characters, of cost", quick=[100]),
    flag("--mb", [100, 400], "of documents of 4,000 characters", quick=[1]),
    flag("--files", [500, 1000], "of 40 documents of 400 characters", quick=[2, 4]),
    *plain(rounds=(5, 1), pages=(200, 2), vocab_size=(32000, 512), workers=2),
]
MEASUREMENT = study.Measurement(
    *(__file__, __doc__, FLAGS),
    measure=lambda options, cells: KINDS[options.what][0](options, cells),
    table=lambda results: KINDS[results["settings"]["what"]][1](results),
)

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())

"""Data preparation: speed of extraction and of binarizing beside other ways.

    python recipes/measure/preparation.py extraction DUMP --out RUN --report docs/benchmarks/data_prep/extraction.md
    python recipes/measure/preparation.py binarizing doc=wikipedia/ books=books/ --out RUN \\
        --report docs/benchmarks/data_prep/binarize.md

extraction: beside mwparserfromhell's parse and strip_code, on one core and the same first articles of a MediaWiki dump.
binarizing: beside sentencepiece followed by fairseq-preprocess, and beside the time within sentencepiece's encode
function, the bound for everybody; all take turns on the same documents with the same tokenizer.
"""

import argparse
import shutil
import subprocess
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import mwparserfromhell
import sentencepiece

from data_prep.corpus import corpus_files, read_file
from data_prep.sources import ReadErrors, dump, wikipedia
from data_prep.sources.mediawiki import wiki
from data_prep.sources.wikitext import Page, prose
from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.study import Cells, Measurement, Work, comparison, in_a_process

OURS, OTHER = "data_prep (prose)", "mwparserfromhell (parse, strip_code)"
SPLITS = ("train", "valid")


def flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("what", choices=list(KINDS), help="what is measured")
    add("input", nargs="+", help="a MediaWiki XML dump (plain, .bz2, .gz, .xz), or SOURCE=PATH of `data_prep extract`")
    add("--rounds", type=int, default=5, help="of each way (default: %(default)s)")
    add("--pages", type=int, default=200, help="articles to extract (default: %(default)s)")
    add("--vocab-size", type=int, default=32000, help="of the tokenizer (default: %(default)s)")
    add("--workers", type=int, default=2, help="processes or threads of a way (default: %(default)s)")


def extraction(options: argparse.Namespace, cells: Cells) -> None:
    path = Path(options.input[0])
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a MediaWiki XML dump")
    cells.turns({name: in_a_process(extract, name, path, options.pages) for name in (OTHER, OURS)}, options.rounds)


def extract(name: str, path: Path, pages: int) -> dict[str, float]:
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
    "binarizing": (binarizing, comparison("Speed of binarizing", "Seconds are of whole processes.", "seconds")),
}
MEASUREMENT = Measurement(
    *(__file__, __doc__, flags),
    measure=lambda options, cells: KINDS[options.what][0](options, cells),
    table=lambda results: KINDS[results["settings"]["what"]][1](results),
    quick={"rounds": 1, "pages": 2, "vocab_size": 512},
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

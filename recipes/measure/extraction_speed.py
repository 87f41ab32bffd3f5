"""Speed of Wikipedia extraction beside mwparserfromhell's parse and strip_code, on the same pages of one dump.

    python recipes/measure/extraction_speed.py DUMP --out RUN --report docs/benchmarks/data_prep/extraction.md

DUMP is any MediaWiki XML dump (plain, .bz2, .gz, .xz); its first pages are enough. Both run on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import islice
from pathlib import Path

import mwparserfromhell

from data_prep.sources import ReadErrors, dump, wikipedia
from data_prep.sources.wikitext import dropped_namespaces, prose
from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.study import Cells, Measurement, comparison, in_a_process

OURS, OTHER = "data_prep (prose)", "mwparserfromhell (parse, strip_code)"


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dump", type=Path, help="MediaWiki XML dump")
    parser.add_argument("--pages", type=int, default=200, help="articles to measure on (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each (default: %(default)s)")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    if not options.dump.is_file():
        raise UsageError(f"{options.dump}: no such file; give a MediaWiki XML dump")
    contestants = {name: in_a_process(extract, name, options.dump, options.pages) for name in (OTHER, OURS)}
    cells.turns(contestants, options.rounds)


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
    megabytes = sum(len(text.encode()) for text in articles) / 1e6
    return {"articles": len(articles), "pages/s": len(articles) / seconds, "MB/s": megabytes / seconds}


TABLE = comparison("Extraction of wikitext on one core", relative="MB/s")
MEASUREMENT = Measurement(__file__, __doc__, flags, measure, TABLE, quick={"pages": 2, "rounds": 1})

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

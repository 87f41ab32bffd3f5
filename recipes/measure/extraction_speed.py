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
from statistics import median
from typing import Any

import mwparserfromhell

from data_prep.problems import Problems
from data_prep.sources import dump, wikipedia
from data_prep.sources.wikitext import dropped_namespaces, prose
from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.study import Cells, Measurement, Results, in_a_process, markdown, rounds_of

OURS, OTHER = "data_prep (prose)", "mwparserfromhell (parse, strip_code)"


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dump", type=Path, help="MediaWiki XML dump")
    parser.add_argument("--pages", type=int, default=200, help="articles to measure on (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each (default: %(default)s)")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    if not options.dump.is_file():
        raise UsageError(f"{options.dump}: no such file; give a MediaWiki XML dump")
    contestants = {name: in_a_process(extract, name, options.dump, options.pages) for name in (OURS, OTHER)}
    cells.turns(contestants, options.rounds)


def extract(name: str, path: Path, pages: int) -> dict[str, Any]:
    """Articles, their bytes of wikitext, and the seconds that one extraction of all takes."""
    names = dump.header(path).namespaces
    dropped = dropped_namespaces(names)
    found = (page for piece in wikipedia.pieces(path) for _, page in dump.pages(piece, names, Problems()))
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
    return {"articles": len(articles), "bytes": sum(len(text.encode()) for text in articles), "seconds": seconds}


def table(results: Results) -> str:
    runs = {name: rounds_of(results["cells"], name) for name in (OURS, OTHER)}
    seconds = {name: median(run["seconds"] for run in found) for name, found in runs.items()}
    articles, megabytes = runs[OURS][0]["articles"], runs[OURS][0]["bytes"] / 1e6
    rows = [
        [name, f"{articles / s:,.0f}", f"{megabytes / s:.2f}", f"{max(seconds.values()) / s:.1f}"]
        for name, s in seconds.items()
    ]
    about = f"{articles} articles, {megabytes:.1f} MB of wikitext, medians of {len(runs[OURS])} rounds, one core\n\n"
    return about + markdown(["extraction", "pages/s", "MB/s", "times as fast"], rows)


MEASUREMENT = Measurement(*(__file__, __doc__, flags, measure, table), quick={"pages": 2, "rounds": 1})

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

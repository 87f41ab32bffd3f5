"""Speed of Wikipedia extraction beside mwparserfromhell's parse and strip_code, on the same pages of one dump.

    python recipes/reproduce/extraction_speed.py DUMP [--rounds 5]

DUMP is any MediaWiki XML dump (plain, .bz2, .gz, .xz); its first pages are enough. Both run in one process, in turn,
and the medians of the rounds are printed as a Markdown table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median

import mwparserfromhell
from tqdm import tqdm

from data_prep.read_errors import ReadErrors
from data_prep.sources import dump, wikipedia
from data_prep.sources.wikitext import dropped_namespaces, prose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", type=Path, help="MediaWiki XML dump")
    parser.add_argument("--pages", type=int, default=200, help="articles to measure on (default: 200)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each way is measured (default: 5)")
    args = parser.parse_args()
    if not args.dump.is_file():
        parser.error(f"{args.dump}: no such file; give a MediaWiki XML dump")

    names = dump.header(args.dump).namespaces
    dropped = dropped_namespaces(names)
    found = (page for piece in wikipedia.pieces(args.dump) for page in dump.pages(piece, names, ReadErrors()))
    articles = [page.text for page in islice((p for p in found if not p.namespace and not p.redirect), args.pages)]
    if not articles:
        parser.error(f"{args.dump}: no articles in it")
    megabytes = sum(len(text.encode()) for text in articles) / 1e6

    ways: dict[str, Callable[[str], object]] = {
        "data_prep (prose)": lambda text: prose(text, dropped),
        "mwparserfromhell (parse, strip_code)": lambda text: mwparserfromhell.parse(text).strip_code(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(args.rounds), unit="round"):
        for name, way in ways.items():
            start = time.perf_counter()
            for text in articles:
                way(text)
            seconds[name].append(time.perf_counter() - start)

    print(f"{len(articles)} articles, {megabytes:.1f} MB of wikitext, medians of {args.rounds} rounds, one core\n")
    print("| extraction | pages/s | MB/s | times as fast |\n|---|---|---|---|")
    slowest = max(median(times) for times in seconds.values())
    for name, times in seconds.items():
        middle = median(times)
        print(f"| {name} | {len(articles) / middle:,.0f} | {megabytes / middle:.2f} | {slowest / middle:.1f} |")


if __name__ == "__main__":
    main()

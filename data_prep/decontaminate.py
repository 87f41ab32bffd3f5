"""The stage `decontaminate`: takes the examples of a benchmark's dev and test files out of the corpus.

As for GPT-3 (Brown et al. 2020, app. C), a document loses a window around each example, and is dropped if no long part
or too many parts are left: a book is not lost for one line that a benchmark quotes.
"""

import unicodedata
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from data_prep.config import DecontaminateConfig
from data_prep.corpus import Document
from data_prep.filters import Verdict, dropped, filter_corpus, filter_file
from data_prep.text.benchmarks import KINDS, benchmark_examples, benchmark_files
from data_prep.text.ngrams import Match, NgramIndex
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.records import WORK, names_and_sizes
from linformer_fairseq.io.shards import Done, Shard, run_shards

MOST_PARTS = 10  # a document of more is dropped; GPT-3
REASON = "benchmark example"


def decontaminate(corpus: Path, out: Path, config: DecontaminateConfig, workers: int = 1) -> dict[str, Any]:
    """Write the corpus without the examples; returns the record of the stage."""
    folders = benchmark_folders(config)
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    settings = {"benchmarks": names_and_sizes(files), "remove": config.remove, "window": config.window}
    index = out / WORK / "ngrams.npz"
    unread = [str(path) for folder in folders for path in benchmark_files(folder)[1]]
    remedy = f"give them as one of {', '.join(KINDS)}, with dev, valid or test in the name"
    for name in unread:
        print(f"decontaminate: {name} is not read, so its examples stay; {remedy}")

    def prepare() -> dict[str, dict[str, Any]]:
        return run_shards(out, [Shard("ngrams", (folders, index), 1, files)], build_index, 0, "decontaminate: index")

    rule = "A document with an example is dropped."
    if config.remove == "window":
        rule = (
            f"A document loses {config.window} characters on each side of an example, and is dropped if no part of "
            f"{config.window} characters is left, or more than {MOST_PARTS} parts."
        )
    count = "A character of Han or Kana counts as a word, and six letters of other scripts without spaces do."
    notes = {"rule": f"{rule} {count}", "unread": unread}
    function = partial(_decontaminate_file, index=index, config=config)
    return filter_corpus("decontaminate", corpus, out, settings, function, workers, prepare, files, notes)


def benchmark_folders(config: DecontaminateConfig) -> list[Path]:
    """The folders of benchmarks; UsageError if there are none, or one is missing."""
    folders = [Path(folder) for folder in config.folders]
    if not folders:
        raise UsageError("--benchmarks: name at least one folder of dev and test files, such as GLUE's")
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--benchmarks {folder}: no such folder; name those of GLUE, IMDB, … as downloaded")
    return folders


def build_index(folders: list[Path], index: Path) -> Done:
    """Index the examples of the benchmarks."""
    ngrams = NgramIndex.build(text for folder in folders for text in benchmark_examples(folder))
    if not ngrams.examples:
        raise UsageError(f"--benchmarks: no dev or test examples of 8 words or more in {folders[0]}")
    ngrams.save(index)
    return Done({"examples": ngrams.examples}, [index])


def _decontaminate_file(source: Path, target: Path, index: Path, config: DecontaminateConfig) -> Done:
    ngrams = NgramIndex.load(index)

    def judge(_: int, document: Document) -> Verdict:
        found = ngrams.matches(document.text)
        if not found:
            return Verdict(document)
        text = document.text
        windows = _windows(text, found, config.window) if config.remove == "window" else [(0, len(text))]
        bounds = [(0, 0), *windows, (len(text), len(text))]
        between = (text[end:start].strip() for (_, end), (start, _) in pairwise(bounds))
        parts = [part for part in between if len(part) >= max(1, config.window)]
        if not 0 < len(parts) <= MOST_PARTS:
            return dropped(REASON, found[0].example[:100])
        removed = {f"window around a {REASON}": len(windows)}
        return Verdict(replace(document, text="\n".join(parts)), removed, found[0].example[:100])

    return filter_file(source, target, judge)


def _windows(text: str, matches: list[Match], window: int) -> list[tuple[int, int]]:
    """What is taken out, (start, end), in order and apart; it begins and ends between words, or between graphemes."""
    found: list[list[int]] = []
    for match in sorted(matches):
        start, end = max(0, match.start - window), min(len(text), match.end + window)
        if found and start <= found[-1][1]:
            found[-1][1] = max(end, found[-1][1])
        else:
            found.append([start, end])
    return [(_between(text, start, -1), _between(text, end, 1)) for start, end in found]


def _between(text: str, place: int, step: int) -> int:
    """The place next to `place`, in the direction of `step`, that is in no word, or if it is far before no mark."""
    for near in range(place, place + 40 * step, step):
        if 0 <= near < len(text) and text[near].isspace():
            return near
    while 0 < place < len(text) and unicodedata.category(text[place]).startswith("M"):
        place += step
    return place

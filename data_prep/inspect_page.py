"""`inspect --html`: a run, a corpus or binarised data as one page."""

import random
from collections import Counter, defaultdict
from difflib import SequenceMatcher
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from data_prep import funnel
from data_prep.corpus import Document
from data_prep.inspect import READ, SHOWN, contents, document_at, dropped_rows, sample_corpus, sample_data
from linformer_fairseq.io.page import Page, Runs

LANGUAGES, LETTERS = 2_000, 2_000  # documents whose language is guessed, by their first letters
TOKENS = 500  # most frequent ones in the table
BARS = {"autorange": "reversed", "type": "category"}


def write_page(folder: Path, samples: int, seed: int, path: Path) -> None:
    """Write the page `path` about a folder, with so many samples of each kind, chosen by `seed`."""
    page = Page(f"Data: {folder.resolve().name}", path)
    corpora, data = contents(folder)
    dropped, chosen = _dropped(folder, samples, seed)
    _add_funnel(page, folder, dropped)
    kept: list[Document] = []
    if corpora:
        lengths, some = sample_corpus(corpora[0], LANGUAGES, seed)
        kept = random.Random(seed).sample(some, min(len(some), samples))
        about = f"{len(lengths):,} documents of {corpora[0]}, at most {READ:,}. Languages are guessed"
        page.section("Documents", f"{about} by py3langid, of {len(some):,} of them.")
        page.plot("Characters in a document", {"characters": [_histogram(lengths)]}, xaxis={"type": "log"})
        found = Counter(language(document.text[:LETTERS]) for document in some).most_common()
        page.plot("Languages", {"documents": [bars([n for n, _ in found], [c for _, c in found])]}, yaxis=BARS)
        page.table(["language", "documents"], found)
        page.section("Kept")
        for one in kept:
            page.texts(f"{one.id} {one.title}", one.source, {"kept": _beginning(one.text)})
    _add_dropped(page, chosen, kept)
    for prefix in {prefix.name: prefix for prefix in reversed(data)}.values():
        _add_data(page, prefix, samples, seed)
    page.write()


def language(text: str) -> str:
    """The code of the language that py3langid takes a text for; "no letters" without any."""
    from py3langid import classify

    return str(classify(text)[0]) if any(map(str.isalpha, text)) else "no letters"


Chosen = dict[tuple[str, str], list[tuple[Path | None, str, dict[str, Any]]]]


def _dropped(folder: Path, samples: int, seed: int) -> tuple[dict[str, Counter[str]], Chosen]:
    """Characters dropped by stage and reason, and by these random rows: the corpus, the `FILE:ROW` and the row."""
    choose = random.Random(seed)
    characters: dict[str, Counter[str]] = defaultdict(Counter)
    unknown = set()
    seen: Counter[tuple[str, str]] = Counter()
    chosen: Chosen = defaultdict(list)
    for before, stage, path, rows in dropped_rows(folder):
        for row in rows:
            key = stage.name, row["reason"]
            if row.get("characters") is None:  # written by an earlier version
                unknown.add(stage.name)
            else:
                characters[stage.name][row["reason"]] += row["characters"]
            place = seen[key] if seen[key] < samples else choose.randrange(seen[key] + 1)
            seen[key] += 1
            if place < samples:
                chosen[key][place : place + 1] = [(before, f"{path.name}:{row['row']}", row)]
        characters[stage.name] += Counter()
    return {stage: counts for stage, counts in characters.items() if stage not in unknown}, chosen


def _add_funnel(page: Page, folder: Path, dropped: dict[str, Counter[str]]) -> None:
    records = funnel.read_records(folder)
    page.section("Stages", "" if records else f"{folder} has no records of stages, such as clean.json.")
    rows = funnel.rows({name: record["result"] for name, record in records.items()}, dropped)
    for title, wanted in (("Kept", True), ("Left out", False)):
        views: dict[str, list[dict[str, Any]]] = {}
        for column, name in enumerate(funnel.COUNTED, start=2):
            some = [row for row in rows if (row[1] == "kept") == wanted and row[column]]
            labels = [row[0] if wanted else f"{row[0]}: {row[1]}" for row in some]
            views |= {name: [bars(labels, [row[column] for row in some])]} if some else {}
        if views:
            page.plot(title, views, yaxis=BARS)
    if rows:
        page.table(funnel.COLUMNS, rows)


def _add_dropped(page: Page, chosen: Chosen, kept: list[Document]) -> None:
    why = "" if chosen else "No stage in this folder has dropped a document."
    page.section("Dropped", why or "Of each reason some documents, beside one that is kept or that they repeat.")
    for number, ((stage, reason), rows) in enumerate(sorted(chosen.items())):
        for before, place, row in rows:
            mark = f"{stage}: {reason}{' — ' if row['detail'] else ''}{row['detail']}"
            panes: dict[str, Runs] = {place: "The folder of the run has its text."}
            if before is not None:
                text = document_at(before, place).text
                panes = {f"dropped, {place}": _around(text, row["detail"])}
                if row["beside"]:
                    one, other = _differences(text, document_at(before, row["beside"]).text)
                    panes = {f"dropped, {place}": one, f"repeats {row['beside']}": other}
                elif kept:
                    document = kept[number % len(kept)]
                    panes[f"kept, {document.id}"] = _beginning(document.text)
            page.texts(row["id"], mark, panes)


def _add_data(page: Page, prefix: Path, samples: int, seed: int) -> None:
    found = sample_data(prefix, samples, seed)
    counts = found.counts
    read, tokens = int(counts.sum()), int(found.sizes.sum(dtype=np.int64))
    about = f"{len(found.documents):,} documents, {len(found.sizes):,} items, {tokens:,} tokens, {read:,} of them read."
    page.section(f"Tokens of {prefix.name}", about)
    page.plot("Tokens in a document", {"tokens": [_histogram(found.documents)]}, xaxis={"type": "log"})
    order = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
    frequency = {"mode": "lines", "x": list(range(1, len(order) + 1)), "y": counts[order].tolist()}
    page.plot("Frequency by rank", {"rank": [frequency]}, xaxis={"type": "log"}, yaxis={"type": "log"})
    names = found.encoder.names
    table = [(rank, names[i], int(counts[i]), int(counts[i]) / read) for rank, i in enumerate(order[:TOKENS], 1)]
    page.table(["rank", "token", "times", "share"], table, fold=f"the {len(table)} most frequent tokens")
    for number, block in enumerate(found.blocks, 1):
        page.texts(f"block {number} of {prefix.name}", "", {"decoded": _beginning(block)})


def bars(names: list[str], values: list[Any]) -> dict[str, Any]:
    """A trace of horizontal bars."""
    return {"type": "bar", "orientation": "h", "y": names, "x": values}


def _histogram(lengths: ArrayLike) -> dict[str, Any]:
    """A trace of the counts in bins that grow by the square root of two."""
    values = np.maximum(np.asarray(lengths, np.int64), 1)
    bins = int(2 * np.log2(values.max(initial=1))) + 2
    edges = np.sqrt(2.0) ** np.arange(bins + 1)
    counts = np.histogram(values, edges)[0].tolist()
    return {"line": {"shape": "hv"}, "mode": "lines", "fill": "tozeroy", "x": edges.tolist(), "y": [*counts, 0]}


def _beginning(text: str) -> str:
    return text[:SHOWN] + " …" * (len(text) > SHOWN)


def _around(text: str, detail: str) -> Runs:
    """The part of a text around what its reason names, which is marked."""
    wanted = detail[:40]
    place = text.find(wanted) if wanted else -1
    if place < 0:
        return _beginning(text)
    end = place + len(wanted)
    return [(text[max(0, place - SHOWN) : place], False), (text[place:end], True), (text[end : end + SHOWN], False)]


def _differences(text: str, other: str) -> tuple[Runs, Runs]:
    """Two texts, from shortly before they differ, with the words marked that the other lacks."""
    start = 0 if text == other else max(0, len(commonprefix([text, other])) - SHOWN // 2)
    a, b = (one[start : start + SHOWN].split(" ") for one in (text, other))
    runs: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    steps = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    if max(len(text), len(other)) - start > SHOWN:  # the texts end here because they are cut
        steps[-1] = ("equal", *steps[-1][1:])
    for kind, *bounds in steps:
        for words, into, (first, last) in ((a, runs[0], bounds[:2]), (b, runs[1], bounds[2:])):
            if first < last:
                into += [(" ".join(words[first:last]), kind != "equal"), (" ", False)]
    return runs

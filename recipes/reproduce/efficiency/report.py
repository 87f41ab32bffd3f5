"""The report: results.json, table.md and speed.png, computed from the cells and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.reproduce.efficiency import paper
from recipes.reproduce.efficiency.cells import keep
from recipes.reproduce.efficiency.contestants import CONTESTANTS
from recipes.reproduce.efficiency.contract import contract
from recipes.reproduce.efficiency.plot import plot
from recipes.reproduce.efficiency.results import Conditions, Entry, Results, seconds, speed, time_ratio

OTHERS = tuple(name for name in CONTESTANTS if name != "ours")
MALLOC = {
    "each": "On a CPU freed memory is kept for ours, as in its trainings, and given back for others, as glibc does.",
    "kept": "On a CPU freed memory is kept for all, as in this project's trainings.",
}
MIB, KIB = 2**20, 2**10


def write(out: Path, folder: Path) -> str:
    """Writes the report on the cells of `out`; returns its text."""
    results = Results(out)
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(_text(results)) + "\n"
    dropouts = sorted({conditions.attention_dropout for conditions in results.conditions()})
    keep(
        folder / "results.json",
        {
            "settings": results.settings,
            "contract": [
                {"attention_dropout": p, **vars(line), "met": line.met}
                for p in dropouts
                for line in contract(results, p)
            ],
            "cells": [_summary(cell) for cell in results.cells],
        },
    )
    (folder / "table.md").write_text(text)
    plot(results, folder / "speed.png")
    return text


def _summary(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell with median, least and greatest tokens per second of each entry."""
    entries = {
        label: {**entry, "tokens_per_second": _range(entry)} if seconds(entry) else dict(entry)
        for label, entry in cell["entries"].items()
    }
    return {**cell, "entries": entries}


def _range(entry: Entry) -> dict[str, float | None]:
    found = seconds(entry)
    return {"median": speed(entry), "least": entry["tokens"] / max(found), "greatest": entry["tokens"] / min(found)}


def _text(results: Results) -> Iterator[str]:
    yield from _head(results)
    for p in sorted({conditions.attention_dropout for conditions in results.conditions()}):
        yield from ("", f"## Required and seen, attention dropout {p:g}", "", *_contract(results, p))
    for conditions in results.conditions():
        yield from _section(f"## Tokens per second: {conditions}", _time_table(results, conditions))
        yield from _section(f"## Peak memory: {conditions}", _memory_table(results, conditions))
        yield from _section(f"## The same number of tokens at each length: {conditions}", _linear(results, conditions))


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    body = list(lines)
    if body:
        yield from ("", title, "", *body)


def _head(results: Results) -> Iterator[str]:
    s = results.settings
    yield from ("# One encoder layer: time and memory", "")
    packages = ", ".join(f"{name} {s[name]}" for name in ("torch", "ve-fairseq", "linformer") if s.get(name))
    yield f"{s['device']}; {s['threads']} threads; Python {s['python']}, {packages}."
    yield (
        f"d = {s['embed_dim']}, {s['heads']} heads, ffn {s['ffn_dim']}, post-LN, GELU, dropout {s['dropout']:g}; "
        f"{s['tokens']:,} tokens a step, or n if that is more; bf16 is autocast. {MALLOC[s['malloc']]} Measured by"
    )
    commands = sorted({cell["command"] for cell in results.cells})
    yield from ("", *(f"    {command}" for command in commands), "")
    states = {cell["layers"] for cell in results.cells}
    if len(states) > 1:
        yield f"**These cells were measured with {len(states)} different states of linformer_fairseq/layers.**\n"
    found = {entry["contestant"] for cell in results.cells for entry in cell["entries"].values()}
    yield from (f"- {name}: {about.about}" for name, about in CONTESTANTS.items() if name in found)
    yield (
        "\nThe contestants of a cell take turns in one process. Tokens per second are medians over its rounds; a "
        "number in brackets is how many times as fast ours is: the median of the ratios within the rounds. Memory is "
        "the growth from layer, gradients of the parameters and input to the peak within one step, each in a fresh "
        "process; on a CPU that of the resident set, with an allocator that gives back at once. In brackets, how many "
        "times as much as ours. The paper's memory is how many times as many inputs fit, which this comes near to."
    )


def _contract(results: Results, attention_dropout: float) -> Iterator[str]:
    yield from ("| | required | seen | |", "|---|---:|---:|---|")
    for line in contract(results, attention_dropout):
        sign = "≥" if line.least else "≤"
        seen = "" if line.seen is None else f"{line.seen:.2f}"
        met = {True: "met", False: "**not met**", None: "not measured"}[line.met]
        required = "" if line.required is None else f"{sign} {line.required:.2f}"
        yield f"| {line.text} | {required} | {seen} | {met} |"


def _time_table(results: Results, conditions: Conditions) -> Iterator[str]:
    rows = list(results.time_rows(conditions))
    others = [name for name in OTHERS if any(name in entries for _, _, entries in rows)]
    if rows:
        yield from _header(["n", "k", "ours (least–greatest)", *others, "rounds"])
    for n, k, entries in rows:
        mine = entries.get("ours", {})
        cells = [f"{n:,}", f"{k:,}", _speed_range(mine)]
        for name in others:
            entry = entries.get(name, {})
            cells.append(_figure(speed(entry), time_ratio(mine, entry), _paper(paper.TIME, name, n, k)))
        yield _row([*cells, str(len(seconds(mine)))])
    yield from _reasons((f"{name} at n = {n:,}", entry) for n, _, entries in rows for name, entry in entries.items())


def _memory_table(results: Results, conditions: Conditions) -> Iterator[str]:
    sizes = results.memory_sizes(conditions)
    found = {(name, n, k): results.memory(conditions, name, n, k) for name in CONTESTANTS for n, k in sizes}
    others = [name for name in OTHERS if any(found[name, n, k] for n, k in sizes)]
    if sizes:
        yield from _header(["n", "k", "ours, MiB", "KiB a token", *(f"{name}, MiB" for name in others)])
    for n, k in sizes:
        mine = found["ours", n, k]
        size = mine.get("bytes")
        cells = [f"{n:,}", f"{k:,}"]
        cells += [f"{size / MIB:,.0f}", f"{size / mine['tokens'] / KIB:.1f}"] if size else ["", ""]
        for name in others:
            other = found[name, n, k].get("bytes")
            times = other / size if other and size else None
            cells.append(_figure(other / MIB if other else None, times, _paper(paper.MEMORY, name, n, k)))
        yield _row(cells)
    yield from _reasons((f"{name} at n = {n:,}", entry) for (name, n, _), entry in found.items())


def _linear(results: Results, conditions: Conditions) -> Iterator[str]:
    for k, entries in results.linear_rows(conditions):
        yield from _header(["n", "k", "tokens a step", "tokens/s", "share", "KiB a token", "share"])
        ordered = sorted(entries.items(), key=lambda item: int(item[0]))
        memory = [results.memory(conditions, "ours", int(n), k, entry["tokens"]) for n, entry in ordered]
        each = [found["bytes"] / found["tokens"] / KIB if "bytes" in found else None for found in memory]
        for (n, entry), kib in zip(ordered, each, strict=True):
            fast, share = speed(entry), time_ratio(entry, ordered[0][1])
            cells = [f"{int(n):,}", f"{k:,}", f"{entry['tokens']:,}"]
            cells += ["" if fast is None else f"{fast:,.0f}", "" if share is None else f"{share:.3f}"]
            cells += ["" if kib is None else f"{kib:.1f}", "" if not kib or not each[0] else f"{kib / each[0]:.3f}"]
            yield _row(cells)


def _figure(value: float | None, ratio: float | None, papers: float | None) -> str:
    """ "1,234 (2.10; paper 1.9)"."""
    if value is None:
        return ""
    beside = [] if ratio is None else [f"{ratio:.2f}"]
    beside += [] if papers is None else [f"paper {papers:g}"]
    return f"{value:,.0f}" + (f" ({'; '.join(beside)})" if beside else "")


def _paper(table: dict[int, tuple[float, ...]], name: str, n: int, k: int) -> float | None:
    return paper.figure(table, n, k) if name == "plain" else None


def _speed_range(entry: Entry) -> str:
    found = seconds(entry)
    if not found:
        return ""
    return f"{speed(entry):,.0f} ({entry['tokens'] / max(found):,.0f}–{entry['tokens'] / min(found):,.0f})"


def _reasons(entries: Iterator[tuple[str, Entry]]) -> Iterator[str]:
    """Why cells are empty."""
    words = {f"{name}: {entry[key]}." for name, entry in entries for key in ("missing", "skipped") if key in entry}
    if words:
        yield from ("", " ".join(sorted(words)))


def _header(names: Sequence[str]) -> tuple[str, str]:
    return _row(names), "|" + "---:|" * len(names)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""The paper's Table 3 measured anew: time and memory of one encoder layer, beside exact attention and other Linformers.

    python recipes/reproduce/table3_efficiency.py --quick --out table3 --report REPORT     half an hour on 2 cores
    python recipes/reproduce/table3_efficiency.py --out table3 --report REPORT             the whole grid: a day or more
    python recipes/reproduce/table3_efficiency.py --out table3 --lengths 4096 --k 256 --contestants ours exact adaptive
    python recipes/reproduce/table3_efficiency.py --out same-tokens --tokens 65536 --lengths 1024 65536 --k 256 \\
        --contestants ours --modes train                                                  the same tokens at each length

Every figure is of a process of its own, and contestants take turns: name those to be compared in one command. The
report is of all cells that are finished.
"""

import math
import os
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from linformer_fairseq.measuring import study
from linformer_fairseq.measuring.layers import CONTESTANTS, EXACT, Entry, cost, missing
from linformer_fairseq.measuring.plots import Panel, plot_lines
from linformer_fairseq.measuring.study import Cells, Options, Results, flag, in_a_process, plain, rounds_of
from linformer_fairseq.training.hardware import low_precision

# Table 3 of the paper (Wang et al. 2020, arXiv 2006.04768), against n x n softmax on a V100 of 16 GB, inference:
# n -> times as fast, and how many times as many inputs fit into memory, for each k below n.
KS = (128, 256, 512, 1024, 2048)
PAPER = {
    512: ((1.5, 1.3), (1.7, 1.5)),
    1024: ((1.7, 1.6, 1.3), (3.0, 2.9, 1.8)),
    2048: ((2.6, 2.4, 2.1, 1.3), (6.1, 5.6, 3.6, 2.0)),
    4096: ((3.4, 3.2, 2.8, 2.2, 1.3), (14, 13, 8.3, 4.3, 2.3)),
    8192: ((5.5, 5.0, 4.4, 3.5, 2.1), (28, 26, 17, 8.5, 4.5)),
    16384: ((8.6, 7.8, 7.0, 5.6, 3.3), (56, 48, 32, 16, 8)),
    32768: ((13, 12, 11, 8.8, 5.0), (56, 48, 36, 18, 16)),
    65536: ((20, 18, 16, 14, 7.9), (60, 52, 40, 20, 18)),
}
KINDS = {"time": "Tokens per second", "memory": "Peak memory"}
# What --quick measures: n, k, contestants.
QUICK = (
    (512, 256, ("ours", "exact", "plain", "fairseq", "lucidrains")),
    (512, 128, ("ours", "fairseq")),
    (4096, 256, ("ours", "exact", "plain", "fairseq", "lucidrains")),
    (4096, 128, ("ours", "fairseq")),
    (16384, 256, ("ours", "exact", "fairseq")),
    (32768, 256, ("ours", "exact")),
    (65536, 256, ("ours",)),
)
ABOUT = """{threads} threads. d = {embed_dim}, {heads} heads, ffn {ffn_dim}, post-LN, GELU, dropout {dropout:g}, none
of attention weights; {tokens:,} tokens a step, or n if that is more; 16 bit is autocast. On a CPU freed memory is kept
for ours, as in its trainings, and given back for others, as glibc does."""
NOTES = """Tokens per second are medians over rounds, in which the contestants take turns; in brackets, how many times
as fast ours is: the median of the ratios within the rounds. Memory is the growth from layer, gradients of the
parameters and input to the peak within one step, each in a fresh process; on a CPU that of the resident set, with an
allocator that gives back at once. In brackets, how many times as much as ours. The paper's memory is how many times as
many inputs fit, which this comes near to."""
MODES = {"train": "forward and backward", "forward": "forward"}
DTYPES = ("fp32", "bf16", "fp16")
Found = Mapping[tuple[str, int, int], Mapping[str, Any]]
"""By contestant, n, and k (0 for who knows none): an entry with the `amounts` of its rounds, seconds or bytes."""


def run(o: Options, cells: Cells) -> None:
    for name in o.contestants:
        if (reason := missing(name)) is not None:
            print(f"{name}: {reason}; its column stays empty", file=sys.stderr)
    entries = grid(o)
    for number in range(o.rounds):
        results, left = {name: content["result"] for name, content in cells.finished().items()}, {}
        for name, entry in entries.items():
            earlier = rounds_of(results, name)[:number]
            spent = sum(found.get("seconds", math.inf) for found in earlier)  # memory is measured once
            if len(earlier) == number and spent < o.budget:
                left[f"{name}, round {number}"] = in_a_process(cost, entry, o.device, o.threads, o.budget)
        cells.run(left, again=o.again)


def grid(o: Options) -> dict[str, Entry]:
    """The entries that the options ask for, by their names; k < n as in the paper."""
    sizes = QUICK if o.quick else [(n, k, tuple(o.contestants)) for n in o.lengths for k in o.k if k < n]
    found = []
    for mode, dtype in product(o.modes, o.dtypes):
        about = (mode, dtype, o.embed_dim, o.heads, o.ffn_dim, o.dropout)
        for n, k, names in sizes:
            tokens = max(o.tokens, n) // n * n  # at least one input
            memory = [c for c in names if not o.quick or c != "exact" or n <= 16384]
            found += [Entry("time", c, n, k, tokens, *about) for c in names]
            found += [Entry("memory", c, n, 0 if c in EXACT else k, tokens, *about) for c in memory]
    chosen = [e for e in found if e.kind in o.kinds and missing(e.contestant) is None]
    name = "{kind}, {contestant}, n = {n}, k = {k}, {tokens} tokens, {dtype}, {mode}"
    return {name.format(**vars(entry)): entry for entry in chosen}


def table(results: Results) -> str:
    """Time and memory for each mode and dtype."""
    there = {cell["contestant"] for cell in results["cells"].values()}
    lines = [f"- {name}: {about}" for name, (about, _) in CONTESTANTS.items() if name in there]
    head = study.heading("One encoder layer: time and memory", results, ABOUT.format(**results["settings"]))
    parts = [head, "\n".join([*lines, "", NOTES, ""])]
    parts += [f"\n## {title}\n\n{grid_table(found)}" for title, found in by_title(results).items()]
    return "".join(parts)


def by_title(results: Results) -> Mapping[str, Found]:
    """Entries by the title of their table: training first, fp32 first."""
    entries = []
    for name in dict.fromkeys(name.rpartition(", round ")[0] for name in results["cells"]):
        rounds = rounds_of(results["cells"], name)
        amounts = [one[unit] for one in rounds for unit in ("seconds", "bytes") if unit in one]
        entries.append({**rounds[0], "amounts": amounts})
    titles = {}
    for mode, dtype, kind in product(MODES, DTYPES, KINDS):
        own = [e for e in entries if (e["mode"], e["dtype"], e["kind"]) == (mode, dtype, kind)]
        if own:
            titles[f"{KINDS[kind]}: {MODES[mode]}, {dtype}"] = {(e["contestant"], e["n"], e["k"]): e for e in own}
    return titles


def grid_table(found: Found) -> str:
    """Tokens per second or MiB over n and k, beside ours and the paper's, and why fields are empty."""
    kind = next(iter(found.values()))["kind"]
    others = [name for name in CONTESTANTS if name != "ours" and any(name == key[0] for key in found)]
    rows = []
    for n, k in sorted({(n, k) for _, n, k in found if k}):
        mine = found.get(("ours", n, k), {"amounts": []})
        amounts = mine["amounts"]
        row = [f"{n:,}", f"{k:,}", f"{figure(mine):,.0f}" if amounts else ""]
        if kind == "memory":
            row.append(f"{amounts[0] / mine['tokens'] / 2**10:.1f}" if amounts else "")
        elif amounts:
            row[-1] += f" ({mine['tokens'] / max(amounts):,.0f}–{mine['tokens'] / min(amounts):,.0f})"
        for name in others:
            other = found.get((name, n, k), found.get((name, n, 0), {"amounts": []}))
            ratios = [theirs / ours for ours, theirs in zip(amounts, other["amounts"], strict=False)]
            beside = [f"{median(ratios):.2f}"] if ratios else []
            beside += [f"paper {papers:g}"] if name == "plain" and (papers := of_paper(kind, n, k)) else []
            shown = f" ({'; '.join(beside)})" if beside else ""
            row.append(f"{figure(other):,.0f}{shown}" if other["amounts"] else "")
        rows.append([*row, len(amounts)] if kind == "time" else row)
    header = ["n", "k", "ours (least–greatest)", *others, "rounds"]
    if kind == "memory":
        header = ["n", "k", "ours, MiB", "KiB a token", *(f"{name}, MiB" for name in others)]
    reasons = {f"{name} at n = {n:,}: {e['skipped']}." for (name, n, _), e in found.items() if "skipped" in e}
    return study.markdown(header, rows, left=0) + (f"\n{' '.join(sorted(reasons))}\n" if reasons else "")


def figure(entry: Mapping[str, Any]) -> float:
    """Median tokens per second, or MiB."""
    amount = float(median(entry["amounts"]))
    return float(entry["tokens"]) / amount if entry["kind"] == "time" else amount / 2**20


def of_paper(kind: str, n: int, k: int) -> float | None:
    """The paper's figure for n and k beside its own baseline, if it has one."""
    figures = PAPER[n][list(KINDS).index(kind)] if n in PAPER else ()
    return dict(zip(KS, figures, strict=False)).get(k)


def plot(results: Results, path: Path) -> None:
    """Tokens per second over n, a panel for each mode and dtype, for k = 256 or else the least k."""
    panels = []
    for title, found in by_title(results).items():
        name, _, conditions = title.partition(": ")
        if name == KINDS["time"]:
            k = min((at for _, _, at in found), key=lambda at: (at != 256, at))
            lines: dict[str, list[tuple[float, float]]] = {}
            for c, n in sorted((c, n) for c, n, at in found if at == k and found[c, n, k]["amounts"]):
                lines.setdefault(c, []).append((n, figure(found[c, n, k])))
            lines = {c: lines[c] for c in CONTESTANTS if c in lines}
            panels.append(Panel("n", lines, f"{conditions}, k = {k}", "log"))
    if panels:
        plot_lines(path, "tokens per second", panels, lambda name: "o-")


GPU = torch.cuda.is_available()
HALF = "fp16" if low_precision(torch.device("cuda" if GPU else "cpu")) == torch.float16 else "bf16"
FLAGS = [
    flag("--lengths", list(PAPER), "by default the paper's", cells=True),
    flag("--k", list(KS), "by default the paper's, below n", cells=True),
    flag("--contestants", list(CONTESTANTS), choices=list(CONTESTANTS), cells=True),
    flag("--dtypes", ["fp32", HALF], "16 bit is autocast", choices=DTYPES, cells=True),
    flag("--modes", list(MODES), quick=["train"], choices=list(MODES), cells=True),
    flag("--kinds", list(KINDS), choices=list(KINDS), cells=True),
    flag("--dropout", 0.1),
    flag("--rounds", 5, "after one for warming up", quick=3),
    flag("--budget", 60.0, "seconds of a contestant in a cell, then it drops out", quick=20.0, cells=True),
    flag("--tokens", 65536 if GPU else 4096, "of a step, at least"),
    flag("--device", "cuda" if GPU else "cpu", choices=["cpu", "cuda"]),
    flag("--again", False, "measure finished cells, too", cells=True),
    *plain(threads=len(os.sched_getaffinity(0)), embed_dim=768, heads=12, ffn_dim=3072),
]
MEASUREMENT = study.Measurement(__file__, __doc__, FLAGS, run, table, {"speed.png": plot})

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())

"""The paper's Table 3 measured anew: time and memory of one encoder layer, beside exact attention and other Linformers.

    python recipes/reproduce/table3_efficiency.py --quick --out table3 --report REPORT     half an hour on 2 cores
    python recipes/reproduce/table3_efficiency.py --out table3 --report REPORT             the whole grid: most of a day
    python recipes/reproduce/table3_efficiency.py --out table3 --lengths 4096 --k 256 --contestants ours exact bound
    python recipes/reproduce/table3_efficiency.py --out same-tokens --tokens 65536 --lengths 1024 65536 --k 256 \\
        --contestants ours --modes train                                                  the same tokens at each length

Every figure is of a process of its own, and contestants take turns: name those to be compared in one command. The
report is of all cells that are finished.
"""

import argparse
import math
import os
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from linformer_fairseq.measuring.layers import CONTESTANTS, EXACT, Entry, cost, missing
from linformer_fairseq.measuring.plots import Panel, plot_lines
from linformer_fairseq.measuring.study import Cells, Measurement, Results, heading, in_a_process, markdown, rounds_of

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
KINDS = ("time", "memory")
# What --quick measures: n, k, contestants.
QUICK = (
    (512, 256, ("ours", "exact", "plain", "fairseq", "lucidrains", "bound")),
    (512, 128, ("ours", "fairseq", "bound")),
    (4096, 256, ("ours", "exact", "plain", "fairseq", "lucidrains", "bound")),
    (4096, 128, ("ours", "fairseq", "bound")),
    (16384, 256, ("ours", "exact", "fairseq", "bound")),
    (32768, 256, ("ours", "exact", "bound")),
    (65536, 256, ("ours", "bound")),
)
ABOUT = """{threads} threads. d = {embed_dim}, {heads} heads, ffn {ffn_dim}, post-LN, GELU, dropout {dropout:g}, none
of attention weights; {tokens:,} tokens a step, or n if that is more; bf16 is autocast. On a CPU freed memory is kept
for ours, as in its trainings, and given back for others, as glibc does."""
NOTES = """Tokens per second are medians over rounds, in which the contestants take turns; in brackets, how many times
as fast ours is: the median of the ratios within the rounds. Memory is the growth from layer, gradients of the
parameters and input to the peak within one step, each in a fresh process; on a CPU that of the resident set, with an
allocator that gives back at once. In brackets, how many times as much as ours. The paper's memory is how many times as
many inputs fit, which this comes near to."""
MODES = {"train": "forward and backward", "forward": "forward"}
DTYPES = ("fp32", "bf16")
MIB, KIB = 2**20, 2**10
Found = Mapping[str, Any]
"""An entry's fields, and the seconds of its rounds or its bytes."""
Key = tuple[str, str, int, int]
"""Kind, contestant, n, and k (0 for who knows none) of an entry."""


def flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--lengths", type=int, nargs="+", default=list(PAPER), metavar="N", help="default: the paper's")
    add("--k", type=int, nargs="+", default=list(KS), metavar="K", help="default: the paper's, below n")
    names = ", ".join(CONTESTANTS)
    add("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS), metavar="NAME", help=names)
    add("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="bf16 is autocast")
    add("--modes", nargs="+", choices=list(MODES), default=list(MODES), help="default: both")
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: both")
    add("--dropout", type=float, default=0.1, help="default: %(default)s")
    add("--rounds", type=int, default=5, help="after one for warming up (default: %(default)s)")
    add("--budget", type=float, default=60.0, metavar="SECONDS", help="of a contestant in a cell, then it drops out")
    gpu = torch.cuda.is_available()
    add("--tokens", type=int, default=65536 if gpu else 4096, help="of a step, at least (default: %(default)s)")
    add("--device", choices=["cpu", "cuda"], default="cuda" if gpu else "cpu", help="default: %(default)s")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: %(default)s")
    add("--again", action="store_true", help="measure finished cells, too")
    for flag, default in (("--embed-dim", 768), ("--heads", 12), ("--ffn-dim", 3072)):
        add(flag, type=int, default=default, help="default: %(default)s")


def run(o: argparse.Namespace, cells: Cells) -> None:
    for name in o.contestants:
        if (reason := missing(name)) is not None:
            print(f"{name}: {reason}; its column stays empty", file=sys.stderr)
    entries = grid(o)
    for number in range(o.rounds):
        results = {name: content["result"] for name, content in cells.finished().items()}
        left = {}
        for name, entry in entries.items():
            spent = sum(found.get("seconds", math.inf) for found in rounds_of(results, name)[:number])
            if spent < o.budget:
                left[f"{name}, round {number}"] = in_a_process(cost, entry, o.device, o.threads, o.budget)
        cells.run(left, again=o.again)


def grid(o: argparse.Namespace) -> dict[str, Entry]:
    """The entries that the options ask for, by their names; k < n as in the paper."""
    sizes = QUICK if o.quick else [(n, k, tuple(o.contestants)) for n in o.lengths for k in o.k if k < n]
    found = []
    for mode, dtype in product(o.modes, o.dtypes):
        about = (mode, dtype, o.embed_dim, o.heads, o.ffn_dim, o.dropout)
        for n, k, names in sizes:
            memory = [c for c in names if not o.quick or (c != "bound" and (c != "exact" or n <= 16384))]
            found += [Entry("time", c, n, k, step(o.tokens, n), *about) for c in names]
            found += [Entry("memory", c, n, 0 if c in EXACT else k, step(o.tokens, n), *about) for c in memory]
    return {name_of(e): e for e in found if e.kind in o.kinds and missing(e.contestant) is None}


def name_of(e: Entry) -> str:
    return f"{e.kind}, {e.contestant}, n = {e.n}, k = {e.k}, {e.tokens} tokens, {e.dtype}, {e.mode}"


def step(tokens: int, n: int) -> int:
    """Tokens of a step with inputs of n tokens: at least one of them."""
    return max(tokens, n) // n * n


def table(results: Results) -> str:
    """Time and memory for each mode and dtype."""
    there = {cell["contestant"] for cell in results["cells"].values()}
    lines = [f"- {name}: {about}" for name, (about, _) in CONTESTANTS.items() if name in there]
    head = heading("One encoder layer: time and memory", results, ABOUT.format(**results["settings"]))
    parts = [head, "\n".join([*lines, "", NOTES, ""])]
    for conditions, found in by_conditions(results).items():
        for kind, title in zip(KINDS, ("Tokens per second", "Peak memory"), strict=True):
            if any(key[0] == kind for key in found):
                parts.append(f"\n## {title}: {conditions}\n\n{grid_table(kind, found)}")
    return "".join(parts)


def by_conditions(results: Results) -> dict[str, dict[Key, Found]]:
    """Entries by mode and dtype: training first, fp32 first. Their seconds are a list, by round."""
    found: dict[str, dict[Key, Found]] = {f"{MODES[m]}, {dtype}": {} for m, dtype in product(MODES, DTYPES)}
    for name in dict.fromkeys(name.rpartition(", round ")[0] for name in results["cells"]):
        rounds = rounds_of(results["cells"], name)
        entry = {**rounds[0], "seconds": [one["seconds"] for one in rounds if "seconds" in one]}
        key = (entry["kind"], entry["contestant"], entry["n"], entry["k"])
        found[f"{MODES[entry['mode']]}, {entry['dtype']}"][key] = entry
    return {conditions: entries for conditions, entries in found.items() if entries}


def grid_table(kind: str, found: Mapping[Key, Found]) -> str:
    """Tokens per second or MiB over n and k, beside ours and the paper's, and why fields are empty."""
    cells = {key[1:]: entry for key, entry in found.items() if key[0] == kind}
    others = [name for name in CONTESTANTS if name != "ours" and any(name == key[0] for key in cells)]
    rows = []
    for n, k in sorted({(n, k) for _, n, k in cells if k}):
        mine = cells.get(("ours", n, k), {})
        row, took, size = [f"{n:,}", f"{k:,}"], mine.get("seconds", []), mine.get("bytes")
        if kind == "time":
            least, most = (mine["tokens"] / end(took) for end in (max, min)) if took else (0, 0)
            row.append(f"{speed(mine):,.0f} ({least:,.0f}–{most:,.0f})" if took else "")
        else:
            row += [f"{size / MIB:,.0f}", f"{size / mine['tokens'] / KIB:.1f}"] if size else ["", ""]
        for name in others:
            other = cells.get((name, n, k), cells.get((name, n, 0), {}))
            weight = other.get("bytes")
            ratio = time_ratio(mine, other) if kind == "time" else weight / size if weight and size else None
            value = speed(other) if kind == "time" else weight and weight / MIB
            beside = [] if ratio is None else [f"{ratio:.2f}"]
            beside += [f"paper {figure:g}"] if name == "plain" and (figure := papers(kind, n, k)) else []
            row.append("" if value is None else f"{value:,.0f}" + (f" ({'; '.join(beside)})" if beside else ""))
        rows.append([*row, len(took)] if kind == "time" else row)
    header = ["n", "k", "ours (least–greatest)", *others, "rounds"]
    if kind == "memory":
        header = ["n", "k", "ours, MiB", "KiB a token", *(f"{name}, MiB" for name in others)]
    reasons = {f"{name} at n = {n:,}: {e['skipped']}." for (name, n, _), e in cells.items() if "skipped" in e}
    return markdown(header, rows, left=0) + (f"\n{' '.join(sorted(reasons))}\n" if reasons else "")


def papers(kind: str, n: int, k: int) -> float | None:
    """The paper's figure for n and k beside its own baseline, if it has one."""
    figures = PAPER[n][KINDS.index(kind)] if n in PAPER else ()
    return dict(zip(KS, figures, strict=False)).get(k)


def speed(entry: Found) -> float | None:
    """Tokens per second, median; None if not measured."""
    return entry["tokens"] / median(entry["seconds"]) if entry.get("seconds") else None


def time_ratio(one: Found, other: Found) -> float | None:
    """Tokens per second of one, relative to the other: the median over the rounds in which both took part."""
    pairs = zip(one.get("seconds", []), other.get("seconds", []), strict=False)
    found = [(one["tokens"] / mine) / (other["tokens"] / theirs) for mine, theirs in pairs]
    return median(found) if found else None


def plot(results: Results, path: Path) -> None:
    """Tokens per second over n, a panel for each mode and dtype, for k = 256 or else the least k."""
    panels = []
    for conditions, found in by_conditions(results).items():
        times = {key[1:]: fast for key, entry in sorted(found.items()) if key[0] == "time" and (fast := speed(entry))}
        if times:
            k = min((at for _, _, at in times), key=lambda at: (at != 256, at))
            lines: dict[str, list[tuple[float, float]]] = {}
            for (name, n, at), fast in times.items():
                if at == k:
                    lines.setdefault(name, []).append((n, fast))
            lines = {name: lines[name] for name in CONTESTANTS if name in lines}
            panels.append(Panel("n", lines, f"{conditions}, k = {k}", "log"))
    if panels:
        plot_lines(path, "tokens per second", panels, lambda name: "o--" if name == "bound" else "o-")


MEASUREMENT = Measurement(
    *(__file__, __doc__, flags, run, table),
    pictures={"speed.png": plot},
    quick={"rounds": 3, "budget": 20.0, "modes": ["train"]},
    choices="lengths k contestants dtypes modes kinds budget again".split(),
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

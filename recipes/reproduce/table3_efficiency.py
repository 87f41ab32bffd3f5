"""The paper's Table 3 measured anew: time and memory of one encoder layer, beside exact attention and other Linformers.

    python recipes/reproduce/table3_efficiency.py --quick --out table3 --report REPORT     about 20 minutes on 2 cores
    python recipes/reproduce/table3_efficiency.py --out table3 --report REPORT             the whole grid: most of a day
    python recipes/reproduce/table3_efficiency.py --out table3 --lengths 4096 --k 256 --contestants ours exact bound

Every cell (n, k, dtype, mode) is a process in which its contestants take turns; each memory figure is a process of
its own. The report is of all cells that are finished. `ours-compiled` is only measured if named.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

import linformer_fairseq.layers
from linformer_fairseq.measuring.layer_cost import Conditions, Entry, measure
from linformer_fairseq.measuring.layers import CONTESTANTS, DEFAULT, Sizes, missing
from linformer_fairseq.measuring.plots import Panel, plot_lines
from linformer_fairseq.measuring.study import Cells, Measurement, Results, heading, in_a_process, markdown

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
TIME, MEMORY = range(2)
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
NOTES = """The contestants of a cell take turns in one process. Tokens per second are medians over its rounds; a number
in brackets is how many times as fast ours is: the median of the ratios within the rounds. Memory is the growth from
layer, gradients of the parameters and input to the peak within one step, each in a fresh process; on a CPU that of the
resident set, with an allocator that gives back at once. In brackets, how many times as much as ours. The paper's memory
is how many times as many inputs fit, which this comes near to."""
MIB, KIB = 2**20, 2**10
Found = Mapping[str, Any]
"""What one entry has given: contestant, sizes, tokens, and seconds or bytes."""


def flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--lengths", type=int, nargs="+", default=list(PAPER), metavar="N", help="default: the paper's")
    add("--k", type=int, nargs="+", default=list(KS), metavar="K", help="default: the paper's, below n")
    names = ", ".join(CONTESTANTS)
    add("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(DEFAULT), metavar="NAME", help=names)
    add("--dtypes", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"], help="bf16 is autocast")
    add("--modes", nargs="+", choices=["train", "forward"], default=["train", "forward"], help="default: both")
    kinds = ["time", "memory", "linear"]
    add("--kinds", nargs="+", choices=kinds, default=kinds, help="linear: ours at all lengths with the same tokens")
    add("--linear-lengths", type=int, nargs="+", default=[1024, 65536], metavar="N", help="of kind linear")
    add("--linear-k", type=int, default=256, metavar="K", help="of kind linear (default: %(default)s)")
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
    folder = Path(linformer_fairseq.layers.__path__[0])
    sources = b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))
    layers = hashlib.sha256(sources).hexdigest()[:12]  # the state of this project's layers
    finished = cells.finished()
    work, sizes = {}, {}
    for name, (kind, dtype, mode, entries) in grid(o).items():
        kept = finished[name]["result"]["entries"] if name in finished else {}
        if entries.keys() <= kept.keys() and not o.again:
            continue
        # A contestant that comes later needs the others in the same rounds.
        before = {label: Entry(e["contestant"], Sizes(**e["sizes"]), e["tokens"]) for label, e in kept.items()}
        how = Conditions(mode, dtype, o.device, o.threads, o.rounds, o.budget)
        measured = in_a_process(measure, kind, before | entries, how)
        about = {"kind": kind, "dtype": dtype, "mode": mode, "layers": layers}
        work[name] = lambda about=about, measured=measured: about | {"entries": measured()}
        seconds = sum(map(cost, (before | entries).values())) * (3 if mode == "train" else 1)
        sizes[name] = seconds * (1 if kind == "memory" else o.rounds + 1)
    cells.run(work, sizes, again=True)


def cost(entry: Entry) -> float:
    """About how long a forward pass takes, in no particular unit."""
    s = entry.sizes
    columns = s.n if entry.kind in ("exact", "plain") else s.k
    return entry.tokens * s.embed_dim * (2 * s.embed_dim + 2 * s.ffn_dim + 2 * columns)


def grid(o: argparse.Namespace) -> dict[str, tuple[str, str, str, dict[str, Entry]]]:
    """The cells that the options ask for: name -> kind, dtype, mode, entries by label; k < n as in the paper."""
    options = Sizes(0, 0, o.embed_dim, o.heads, o.ffn_dim, o.dropout)
    sizes = QUICK if o.quick else [(n, k, tuple(o.contestants)) for n in o.lengths for k in o.k if k < n]
    found: dict[str, tuple[str, str, str, dict[str, Entry]]] = {}

    def add(kind: str, where: str, dtype: str, mode: str, entries: dict[str, Entry]) -> None:
        there = {label: entry for label, entry in entries.items() if missing(entry.contestant) is None}
        if there:
            found.setdefault(f"{kind}-{where}-{dtype}-{mode}", (kind, dtype, mode, there))

    def weigh(entry: Entry, dtype: str, mode: str) -> None:
        k = "" if entry.kind in ("exact", "plain") else f"-k{entry.sizes.k}"
        where = f"{entry.contestant}-n{entry.sizes.n}{k}-{entry.tokens}-tokens"
        add("memory", where, dtype, mode, {entry.contestant: entry})

    for mode, dtype in product(o.modes, o.dtypes):
        for n, k, names in sizes:
            entries = {c: Entry(c, replace(options, n=n, k=k), max(o.tokens, n) // n * n) for c in names}
            if "time" in o.kinds:
                add("time", f"n{n}-k{k}", dtype, mode, entries)
            for entry in entries.values() if "memory" in o.kinds else ():
                if not (o.quick and (entry.kind == "bound" or (entry.kind == "exact" and n > 16384))):
                    weigh(entry, dtype, mode)
    for dtype in o.dtypes if "linear" in o.kinds else ():
        k, tokens = o.linear_k, max(o.linear_lengths)
        ours = {str(n): Entry("ours", replace(options, n=n, k=k), tokens // n * n) for n in o.linear_lengths if k < n}
        add("linear", f"k{k}-{tokens}-tokens", dtype, "train", ours)
        for entry in ours.values():
            weigh(entry, dtype, "train")
    return found


def table(results: Results) -> str:
    """Time, memory and linearity for each mode and dtype."""
    parts = [_head(results)]
    for conditions, cells in _by_conditions(results).items():
        tables = {
            "Tokens per second": _time_table(cells),
            "Peak memory": _memory_table(cells, results["settings"]["tokens"]),
            "The same number of tokens at each length": _linear_table(cells),
        }
        parts += [f"\n## {title}: {conditions}\n\n{body}" for title, body in tables.items() if body]
    return "".join(parts)


def _by_conditions(results: Results) -> dict[str, list[Found]]:
    """Cells by mode and dtype: training first, fp32 first."""
    cells = results["cells"].values()
    passes = {"train": "forward and backward", "forward": "forward"}
    found = {
        f"{passes[mode]}, {dtype}": [cell for cell in cells if (cell["mode"], cell["dtype"]) == (mode, dtype)]
        for mode, dtype in product(passes, ("fp32", "bf16"))
    }
    return {conditions: cells for conditions, cells in found.items() if cells}


def _head(results: Results) -> str:
    cells = results["cells"].values()
    states = {cell["layers"] for cell in cells}
    found = {entry["contestant"] for cell in cells for entry in cell["entries"].values()}
    lines = [f"- {name}: {its.about}" for name, its in CONTESTANTS.items() if name in found]
    if len(states) > 1:
        lines = [f"**These cells were measured with {len(states)} states of linformer_fairseq/layers.**\n", *lines]
    head = heading("One encoder layer: time and memory", results, ABOUT.format(**results["settings"]))
    return head + "\n".join([*lines, "", NOTES, ""])


def _time_rows(cells: list[Found]) -> list[tuple[int, int, dict[str, Found]]]:
    """n, k and the entries by contestant."""
    found = [(next(iter(cell["entries"].values()))["sizes"], cell) for cell in cells if cell["kind"] == "time"]
    return sorted(((s["n"], s["k"], cell["entries"]) for s, cell in found), key=lambda row: row[:2])


def _time_table(cells: list[Found]) -> str:
    found = _time_rows(cells)
    others = [name for name in CONTESTANTS if name != "ours" and any(name in entries for _, _, entries in found)]
    rows = []
    for n, k, entries in found:
        mine = entries.get("ours", {})
        took, tokens = seconds(mine), mine.get("tokens", 0)
        spread = f"{speed(mine):,.0f} ({tokens / max(took):,.0f}–{tokens / min(took):,.0f})" if took else ""
        row = [f"{n:,}", f"{k:,}", spread]
        for name in others:
            entry = entries.get(name, {})
            row.append(_figure(speed(entry), time_ratio(mine, entry), _paper(TIME, name, n, k)))
        rows.append([*row, len(took)])
    names = [(f"{name} at n = {n:,}", entry) for n, _, entries in found for name, entry in entries.items()]
    return _table(["n", "k", "ours (least–greatest)", *others, "rounds"], rows, names)


def _memory(cells: list[Found]) -> dict[tuple[str, int, int, int], Found]:
    """Entries by contestant, n, k (0 for who knows none) and tokens."""
    found = {}
    for entry in (entry for cell in cells if cell["kind"] == "memory" for entry in cell["entries"].values()):
        exact = CONTESTANTS[entry["contestant"]].kind in ("exact", "plain")
        found[entry["contestant"], entry["sizes"]["n"], 0 if exact else entry["sizes"]["k"], entry["tokens"]] = entry
    return found


def _memory_table(cells: list[Found], tokens: int) -> str:
    found = {k[:3]: entry for k, entry in _memory(cells).items() if k[3] == max(tokens, k[1]) // k[1] * k[1]}
    others = [name for name in CONTESTANTS if name != "ours" and any(name == key[0] for key in found)]
    rows = []
    for n, k in sorted({(n, k) for _, n, k in found if k}):
        mine = found.get(("ours", n, k), {})
        size = mine.get("bytes")
        mib, kib = (f"{size / MIB:,.0f}", f"{size / mine['tokens'] / KIB:.1f}") if size else ("", "")
        row = [f"{n:,}", f"{k:,}", mib, kib]
        for name in others:
            other = found.get((name, n, k), found.get((name, n, 0), {})).get("bytes")
            ratio = other / size if other and size else None
            row.append(_figure(other and other / MIB, ratio, _paper(MEMORY, name, n, k)))
        rows.append(row)
    names = [(f"{name} at n = {n:,}", entry) for (name, n, _), entry in found.items()]
    return _table(["n", "k", "ours, MiB", "KiB a token", *(f"{name}, MiB" for name in others)], rows, names)


def _linear_table(cells: list[Found]) -> str:
    rows = []
    for entries in (cell["entries"] for cell in cells if cell["kind"] == "linear"):
        ordered = sorted(entries.values(), key=lambda entry: int(entry["sizes"]["n"]))
        for entry in ordered:
            (kib, first), n = (_kib_a_token(cells, found) for found in (entry, ordered[0])), entry["sizes"]["n"]
            fast, share = speed(entry), time_ratio(entry, ordered[0])
            row = [f"{n:,}", f"{entry['sizes']['k']:,}", f"{entry['tokens']:,}", fast and f"{fast:,.0f}"]
            rows.append([*row, share and f"{share:.3f}", kib and f"{kib:.1f}", kib and first and f"{kib / first:.3f}"])
    return _table(["n", "k", "tokens a step", "tokens/s", "share", "KiB a token", "share"], rows, [])


def _kib_a_token(cells: list[Found], entry: Found) -> float | None:
    key = ("ours", entry["sizes"]["n"], entry["sizes"]["k"], entry["tokens"])
    size = _memory(cells).get(key, {}).get("bytes")
    return size and float(size) / entry["tokens"] / KIB


def _table(header: list[str], rows: list[list[Any]], names: list[tuple[str, Found]]) -> str:
    """The table, and why fields are empty."""
    if not rows:
        return ""
    reasons = sorted({f"{name}: {entry['skipped']}." for name, entry in names if "skipped" in entry})
    return markdown(header, rows, left=0) + (f"\n{' '.join(reasons)}\n" if reasons else "")


def _figure(value: float | None, ratio: float | None, papers: float | None) -> str:
    """ "1,234 (2.10; paper 1.9)"."""
    if value is None:
        return ""
    beside = [] if ratio is None else [f"{ratio:.2f}"]
    beside += [] if papers is None else [f"paper {papers:g}"]
    return f"{value:,.0f}" + (f" ({'; '.join(beside)})" if beside else "")


def _paper(what: int, name: str, n: int, k: int) -> float | None:
    """The paper's figure for n and k beside its own baseline, if it has one."""
    figures = PAPER[n][what] if name == "plain" and n in PAPER else ()
    return dict(zip(KS, figures, strict=False)).get(k)


def seconds(entry: Found) -> list[float]:
    """Of a step, in the rounds that it took part in."""
    return [value for value in entry.get("seconds", []) if value is not None]


def speed(entry: Found) -> float | None:
    """Tokens per second, median; None if not measured."""
    found = seconds(entry)
    return entry["tokens"] / median(found) if found else None


def time_ratio(one: Found, other: Found) -> float | None:
    """Tokens per second of one, relative to the other: the median over the rounds in which both took part."""
    pairs = zip(one.get("seconds", []), other.get("seconds", []), strict=False)
    found = [(one["tokens"] / mine) / (other["tokens"] / theirs) for mine, theirs in pairs if mine and theirs]
    return median(found) if found else None


def plot(results: Results, path: Path) -> None:
    """Tokens per second over n, a panel for each mode and dtype, for k = 256 or else the least k."""
    panels = []
    for conditions, cells in _by_conditions(results).items():
        if rows := _time_rows(cells):
            k = 256 if any(row[1] == 256 for row in rows) else min(row[1] for row in rows)
            points = {
                name: [(n, fast) for n, at, found in rows if at == k and (fast := speed(found.get(name, {})))]
                for name in CONTESTANTS
            }
            lines = {name: found for name, found in points.items() if found}
            panels.append(Panel("n", lines, f"{conditions}, k = {k}", "log"))
    if panels:
        plot_lines(path, "tokens per second", panels, lambda name: "o--" if name == "bound" else "o-")


MEASUREMENT = Measurement(
    *(__file__, __doc__, flags, run, table),
    pictures={"speed.png": plot},
    quick={"rounds": 3, "budget": 20.0, "modes": ["train"]},
    choices="lengths k contestants dtypes modes kinds linear_lengths linear_k budget again".split(),
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

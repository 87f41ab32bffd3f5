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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

import linformer_fairseq.layers
from linformer_fairseq.measuring.layer_cost import Entry, How, measure_memory, measure_times
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
MALLOC = {
    "each": "On a CPU freed memory is kept for ours, as in its trainings, and given back for others, as glibc does.",
    "kept": "On a CPU freed memory is kept for all, as in this project's trainings.",
}
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
    add("--attention-dropout", type=float, default=0.0, help="for all that obey it (default: %(default)s)")
    add("--dropout", type=float, default=0.1, help="default: %(default)s")
    add("--malloc", choices=list(MALLOC), default="each", help="freed memory on a CPU (default: %(default)s)")
    add("--rounds", type=int, default=5, help="after one for warming up (default: %(default)s)")
    add("--budget", type=float, default=60.0, metavar="SECONDS", help="of a contestant in a cell, then it drops out")
    gpu = torch.cuda.is_available()
    add("--tokens", type=int, default=65536 if gpu else 4096, help="of a step, at least (default: %(default)s)")
    add("--device", choices=["cpu", "cuda"], default="cuda" if gpu else "cpu", help="default: %(default)s")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: %(default)s")
    add("--again", action="store_true", help="measure finished cells, too")
    for flag, default in (("--embed-dim", 768), ("--heads", 12), ("--ffn-dim", 3072)):
        add(flag, type=int, default=default, help="default: %(default)s")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    o = options
    finished = cells.finished()
    folder = Path(linformer_fairseq.layers.__path__[0])
    sources = b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))
    layers = hashlib.sha256(sources).hexdigest()[:12]  # the state of this project's layers
    work, sizes = {}, {}
    for name, (kind, dtype, mode, entries) in grid(o).items():
        kept = finished[name]["result"]["entries"] if name in finished else {}
        new = [e for label, e in entries.items() if label not in kept or "missing" in kept[label]]
        if not (o.again or any(missing(entry.contestant) is None for entry in new) or name not in finished):
            continue
        # A contestant that comes later needs the others in the same rounds.
        entries = {
            label: Entry(found["contestant"], Sizes(**found["sizes"]), found["tokens"]) for label, found in kept.items()
        } | entries
        for contestant in {entry.contestant for entry in entries.values()}:
            if (reason := missing(contestant)) is not None:
                print(f"{contestant}: {reason}; its column stays empty", file=sys.stderr)
        how = How(mode, dtype, o.device, o.threads, o.malloc, o.rounds, o.budget)
        measured = in_a_process(measure_memory if kind == "memory" else measure_times, entries, how)
        about = {"kind": kind, "dtype": dtype, "mode": mode, "layers": layers}
        work[name] = lambda about=about, measured=measured: about | {"entries": measured()}
        seconds = sum(map(cost, entries.values())) * (3 if mode == "train" else 1) * (0.55 if dtype == "bf16" else 1)
        sizes[name] = seconds * (1 if kind == "memory" else o.rounds + 1)
    cells.run(work, sizes, again=True)


def cost(entry: Entry) -> float:
    """About how long a forward pass takes, in no particular unit."""
    s = entry.sizes
    return entry.tokens * s.embed_dim * (2 * s.embed_dim + 2 * s.ffn_dim + 2 * (s.n if entry.is_a("exact") else s.k))


def grid(o: argparse.Namespace) -> dict[str, tuple[str, str, str, dict[str, Entry]]]:
    """The cells that the options ask for: name -> kind, dtype, mode, entries by label; k < n as in the paper."""
    options = Sizes(0, 0, o.embed_dim, o.heads, o.ffn_dim, o.dropout, o.attention_dropout)
    sizes = [(n, k, tuple(o.contestants)) for n in o.lengths for k in o.k if k < n]
    found: dict[str, tuple[str, str, str, dict[str, Entry]]] = {}

    def add(kind: str, where: str, dtype: str, mode: str, entries: dict[str, Entry]) -> None:
        found.setdefault(f"{kind}-{where}-{dtype}-{mode}-a{o.attention_dropout:g}", (kind, dtype, mode, entries))

    def weigh(entry: Entry, dtype: str, mode: str) -> None:
        s = entry.sizes
        k = "" if entry.is_a("exact") else f"-k{s.k}"
        add("memory", f"{entry.contestant}-n{s.n}{k}-{entry.tokens}-tokens", dtype, mode, {entry.contestant: entry})

    for mode, dtype in ((mode, dtype) for mode in o.modes for dtype in o.dtypes):
        for n, k, names in QUICK if o.quick else sizes:
            entries = {c: Entry(c, replace(options, n=n, k=k), max(o.tokens, n) // n * n) for c in names}
            if "time" in o.kinds:
                add("time", f"n{n}-k{k}", dtype, mode, entries)
            for entry in entries.values() if "memory" in o.kinds else ():
                if not (o.quick and (entry.is_a("bound") or (entry.contestant == "exact" and n > 16384))):
                    weigh(entry, dtype, mode)
    for dtype in o.dtypes if "linear" in o.kinds and len(o.linear_lengths) > 1 else ():
        k, tokens = o.linear_k, max(o.linear_lengths)
        ours = {str(n): Entry("ours", replace(options, n=n, k=k), tokens // n * n) for n in o.linear_lengths if k < n}
        add("linear", f"k{k}-{tokens}-tokens", dtype, "train", ours)
        for entry in ours.values():
            weigh(entry, dtype, "train")
    return found


def table(results: Results) -> str:
    """Time, memory and linearity for all modes, dtypes and attention dropouts that have cells."""
    cells = results["cells"].values()
    return _head(results) + "".join(
        f"\n## {title}: {_in_words(*conditions)}\n\n{body}"
        for conditions in _conditions(results)
        for found in [[cell for cell in cells if _conditions_of(cell) == conditions]]
        for title, body in (
            ("Tokens per second", _time_table(found)),
            ("Peak memory", _memory_table(found, results["settings"]["tokens"])),
            ("The same number of tokens at each length", _linear_table(found)),
        )
        if body
    )


def _conditions_of(cell: Found) -> tuple[float, str, str]:
    return (next(iter(cell["entries"].values()))["sizes"]["attention_dropout"], cell["mode"], cell["dtype"])


def _conditions(results: Results) -> list[tuple[float, str, str]]:
    """Training first, fp32 first, less dropout first."""
    found = {_conditions_of(cell) for cell in results["cells"].values()}
    return sorted(found, key=lambda c: (c[0], c[1] != "train", c[2] != "fp32"))


def _in_words(attention_dropout: float, mode: str, dtype: str) -> str:
    passes = "forward and backward" if mode == "train" else "forward"
    return f"{passes}, {dtype}, attention dropout {attention_dropout:g}"


def _head(results: Results) -> str:
    s, cells = results["settings"], results["cells"].values()
    about = (
        f"{s['threads']} threads. d = {s['embed_dim']}, {s['heads']} heads, ffn {s['ffn_dim']}, post-LN, GELU, dropout "
        f"{s['dropout']:g}; {s['tokens']:,} tokens a step, or n if that is more; bf16 is autocast. {MALLOC[s['malloc']]}"
    )
    states = {cell["layers"] for cell in cells}
    if len(states) > 1:
        about += f"\n\n**These cells were measured with {len(states)} different states of linformer_fairseq/layers.**"
    found = {entry["contestant"] for cell in cells for entry in cell["entries"].values()}
    contestants = "".join(f"- {name}: {its.about}\n" for name, its in CONTESTANTS.items() if name in found)
    return (
        heading("One encoder layer: time and memory", results, about)
        + contestants
        + "\nThe contestants of a cell take "
        "turns in one process. Tokens per second are medians over its rounds; a number in brackets is how many times as "
        "fast ours is: the median of the ratios within the rounds. Memory is the growth from layer, gradients of the "
        "parameters and input to the peak within one step, each in a fresh process; on a CPU that of the resident set, "
        "with an allocator that gives back at once. In brackets, how many times as much as ours. The paper's memory is "
        "how many times as many inputs fit, which this comes near to.\n"
    )


def _time_rows(cells: Iterable[Found]) -> list[tuple[int, int, dict[str, Found]]]:
    """n, k and the entries by contestant."""
    entries = [cell["entries"] for cell in cells if cell["kind"] == "time"]
    sizes = [next(iter(found.values()))["sizes"] for found in entries]
    return sorted(((s["n"], s["k"], found) for s, found in zip(sizes, entries, strict=True)), key=lambda row: row[:2])


def _time_table(cells: Iterable[Found]) -> str:
    found = _time_rows(cells)
    others = [name for name in CONTESTANTS if name != "ours" and any(name in entries for _, _, entries in found)]
    rows = []
    for n, k, entries in found:
        mine = entries.get("ours", {})
        took = seconds(mine)
        spread = (
            f"{speed(mine):,.0f} ({mine['tokens'] / max(took):,.0f}–{mine['tokens'] / min(took):,.0f})" if took else ""
        )
        fields = [
            _figure(speed(e), time_ratio(mine, e), _paper(TIME, c, n, k)) for c in others for e in [entries.get(c, {})]
        ]
        rows.append([f"{n:,}", f"{k:,}", spread, *fields, len(took)])
    if not rows:
        return ""
    reasons = _reasons((f"{name} at n = {n:,}", e) for n, _, entries in found for name, e in entries.items())
    return markdown(["n", "k", "ours (least–greatest)", *others, "rounds"], rows, left=0) + reasons


def _memory(cells: Iterable[Found]) -> dict[tuple[str, int, int, int], Found]:
    """Entries by contestant, n, k (0 for who knows none) and tokens."""
    found: dict[tuple[str, int, int, int], Found] = {}
    for entry in (entry for cell in cells if cell["kind"] == "memory" for entry in cell["entries"].values()):
        exact = "exact" in CONTESTANTS[entry["contestant"]].kinds.split()
        found[entry["contestant"], entry["sizes"]["n"], 0 if exact else entry["sizes"]["k"], entry["tokens"]] = entry
    return found


def _memory_table(cells: Iterable[Found], tokens: int) -> str:
    found = {
        key[:3]: entry for key, entry in _memory(cells).items() if key[3] == max(tokens, key[1]) // key[1] * key[1]
    }
    sizes = sorted({(n, k) for _, n, k in found if k})
    others = [name for name in CONTESTANTS if name != "ours" and any(name == key[0] for key in found)]
    rows = []
    for n, k in sizes:
        mine = found.get(("ours", n, k), {})
        size = mine.get("bytes")
        row = [
            f"{n:,}",
            f"{k:,}",
            *([f"{size / MIB:,.0f}", f"{size / mine['tokens'] / KIB:.1f}"] if size else ["", ""]),
        ]
        for name in others:
            other = found.get((name, n, k), found.get((name, n, 0), {})).get("bytes")
            ratio = other / size if other and size else None
            row.append(_figure(other and other / MIB, ratio, _paper(MEMORY, name, n, k)))
        rows.append(row)
    if not rows:
        return ""
    reasons = _reasons((f"{name} at n = {n:,}", entry) for (name, n, _), entry in found.items())
    return (
        markdown(["n", "k", "ours, MiB", "KiB a token", *(f"{name}, MiB" for name in others)], rows, left=0) + reasons
    )


def _linear_table(cells: list[Found]) -> str:
    rows = []
    memory = _memory(cells)
    for entries in (cell["entries"] for cell in cells if cell["kind"] == "linear"):
        ordered = sorted(entries.values(), key=lambda entry: int(entry["sizes"]["n"]))
        weights = [
            memory.get(("ours", e["sizes"]["n"], e["sizes"]["k"], e["tokens"]), {}).get("bytes") for e in ordered
        ]
        each = [weight and weight / e["tokens"] / KIB for weight, e in zip(weights, ordered, strict=True)]
        for entry, kib in zip(ordered, each, strict=True):
            fast, share = speed(entry), time_ratio(entry, ordered[0])
            row = [f"{entry['sizes']['n']:,}", f"{entry['sizes']['k']:,}", f"{entry['tokens']:,}"]
            row += ["" if fast is None else f"{fast:,.0f}", "" if share is None else f"{share:.3f}"]
            row += [f"{kib:.1f}" if kib else "", f"{kib / each[0]:.3f}" if kib and each[0] else ""]
            rows.append(row)
    return (
        markdown(["n", "k", "tokens a step", "tokens/s", "share", "KiB a token", "share"], rows, left=0) if rows else ""
    )


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


def _reasons(entries: Iterator[tuple[str, Found]]) -> str:
    """Why fields are empty."""
    words = {f"{name}: {entry[key]}." for name, entry in entries for key in ("missing", "skipped") if key in entry}
    return f"\n{' '.join(sorted(words))}\n" if words else ""


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
    """Tokens per second over n, a panel for each mode, dtype and attention dropout, for k = 256 or else the least k."""
    panels = []
    for conditions in _conditions(results):
        rows = _time_rows(cell for cell in results["cells"].values() if _conditions_of(cell) == conditions)
        if rows:
            k = 256 if any(row[1] == 256 for row in rows) else min(row[1] for row in rows)
            lines = {
                name: points
                for name in CONTESTANTS
                if (points := [(n, fast) for n, at, e in rows if at == k and (fast := speed(e.get(name, {})))])
            }
            panels.append(Panel("n", lines, f"{_in_words(*conditions)}\nk = {k}", "log"))
    if panels:
        plot_lines(path, "tokens per second", panels, lambda n: "o--" if CONTESTANTS[n].kinds == "bound" else "o-")


MEASUREMENT = Measurement(
    *(__file__, __doc__, flags, measure, table),
    pictures={"speed.png": plot},
    quick={"rounds": 3, "budget": 20.0, "modes": ["train"]},
    choices="lengths k contestants dtypes modes kinds linear_lengths linear_k attention_dropout budget again".split(),
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

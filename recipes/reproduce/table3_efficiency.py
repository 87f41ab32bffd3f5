"""The paper's Table 3 measured anew: time and memory of one encoder layer, beside exact attention and other Linformers.

    python recipes/reproduce/table3_efficiency.py --quick --out table3 --report REPORT     about 20 minutes on 2 cores
    python recipes/reproduce/table3_efficiency.py --out table3 --report REPORT             the whole grid: most of a day
    python recipes/reproduce/table3_efficiency.py --out table3 --lengths 4096 --k 256 --contestants ours exact bound

Every cell (n, k, dtype, mode) is a process in which its contestants take turns; each memory figure is a process of
its own. A cell that --out has is not measured again, so a stopped run goes on and parts add up to a whole; the
report is of all that --out has. `ours-compiled` is only measured if named.
"""

# ruff: noqa: E402 (the path is set before the imports)

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]
# Looking for a GPU must not start CUDA in this process, from which the measuring ones are forked.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

import torch
from tqdm import tqdm

from linformer_fairseq.errors import UsageError, as_one_sentence
from recipes.reproduce.command import as_typed
from recipes.reproduce.efficiency import cells, measure, processes, report
from recipes.reproduce.efficiency.contestants import CONTESTANTS, DEFAULT, missing
from recipes.reproduce.efficiency.layers import Sizes

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
KS = (128, 256, 512, 1024, 2048)
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


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    a = parser().parse_args(arguments)
    a.rounds = a.rounds or (3 if a.quick else 5)
    device = a.device or ("cuda" if torch.cuda.is_available() else "cpu")
    threads = a.threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else a.threads or 1
    tokens = a.tokens or (65536 if device == "cuda" else 4096)
    options = Sizes(0, 0, a.embed_dim, a.heads, a.ffn_dim, a.dropout, a.attention_dropout)
    todo = chosen(a, tokens, options)
    sizes = {key: value for key, value in asdict(options).items() if key not in ("n", "k", "attention_dropout")}
    settings = processes.isolated(processes.machine, device, threads) | {"tokens": tokens, "malloc": a.malloc} | sizes
    same_settings(settings, a.out)
    for name in sorted({entry.contestant for cell in todo for entry in cell.entries}):
        if (reason := missing(name)) is not None:
            print(f"{name}: {reason}; its column stays empty", file=sys.stderr)
    provenance = {"command": as_typed(__file__, arguments), "layers": processes.layer_digest()}
    failures = run(todo, a, device, threads, provenance)
    print(report.write(a.out, a.report or a.out / "report"))
    if failures:
        raise UsageError(f"{'; '.join(failures)}: run the same again, with fewer --contestants or --tokens")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the cells")
    top.add_argument("--report", type=Path, metavar="DIR", help="for results.json, table.md, speed.png (OUT/report)")
    top.add_argument("--quick", action="store_true", help="a part that takes about 20 minutes on 2 cores")
    top.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), metavar="N", help="default: the paper's")
    top.add_argument("--k", type=int, nargs="+", default=list(KS), metavar="K", help="default: the paper's, below n")
    top.add_argument(
        *("--contestants",),
        nargs="+",
        choices=list(CONTESTANTS),
        default=list(DEFAULT),
        metavar="NAME",
        help=", ".join(CONTESTANTS),
    )
    top.add_argument("--dtypes", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"], help="bf16 is autocast")
    top.add_argument("--modes", nargs="+", choices=["train", "forward"], help="default: both, with --quick train")
    top.add_argument(
        "--kinds",
        nargs="+",
        choices=["time", "memory", "linear"],
        default=["time", "memory", "linear"],
        help="tables to measure; linear: ours at all lengths with the same number of tokens",
    )
    top.add_argument("--linear-lengths", type=int, nargs="+", default=[1024, 65536], metavar="N", help="of kind linear")
    top.add_argument("--linear-k", type=int, default=256, metavar="K", help="of kind linear (default: 256)")
    top.add_argument("--attention-dropout", type=float, default=0.0, help="for all that obey it (default: 0)")
    top.add_argument("--dropout", type=float, default=0.1, help="default: 0.1")
    top.add_argument(
        "--malloc",
        choices=["each", "kept"],
        default="each",
        help="on a CPU, what malloc does with freed memory: for each contestant what its users get, or for all what "
        "this project's trainings set, which keep it (default: each)",
    )
    top.add_argument("--rounds", type=int, help="after one for warming up (default: 5, with --quick 3)")
    top.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="a contestant that has spent it leaves the other rounds out (default: 60, with --quick 20)",
    )
    top.add_argument("--tokens", type=int, help="of a step, at least (default: 4096, on a GPU 65536)")
    top.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    top.add_argument("--threads", type=int, help="default: all cores")
    top.add_argument("--again", action="store_true", help="measure what --out has, too")
    top.add_argument("--embed-dim", type=int, default=768)
    top.add_argument("--heads", type=int, default=12)
    top.add_argument("--ffn-dim", type=int, default=3072)
    return top


def chosen(a: argparse.Namespace, tokens: int, options: Sizes) -> list[cells.Cell]:
    """The cells that the flags ask for."""
    modes = a.modes or (["train"] if a.quick else ["train", "forward"])
    if a.quick:
        grid = [entries for n, k, who in QUICK for entries in cells.plan([n], [k], who, tokens, options)]
    else:
        grid = list(cells.plan(a.lengths, a.k, a.contestants, tokens, options))
    found: list[cells.Cell] = []
    if "time" in a.kinds:
        found += cells.time_cells(grid, a.dtypes, modes)
    if "memory" in a.kinds:
        kept = [tuple(e for e in entries if not (a.quick and slow_to_weigh(e))) for entries in grid]
        found += cells.memory_cells(kept, a.dtypes, modes)
    if "linear" in a.kinds:
        most = max(a.linear_lengths)
        found += cells.linear_cells(a.linear_lengths, a.linear_k, most, options, a.dtypes, ["train"])
    return list({cell.name: cell for cell in found}.values())


def slow_to_weigh(entry: cells.Entry) -> bool:
    """Whether --quick leaves its memory out: no requirement needs it."""
    return entry.contestant == "bound" or (entry.contestant == "exact" and entry.sizes.n > 16384)


def run(
    todo: Sequence[cells.Cell], a: argparse.Namespace, device: str, threads: int, provenance: dict[str, Any]
) -> list[str]:
    """Measures what is left to do; returns a word about each cell that failed."""
    left = [cell if a.again else cells.with_kept(cell, a.out) for cell in todo]
    work = [cell for cell in left if cell is not None]
    budget = a.budget or (20.0 if a.quick else 60.0)
    failures = []
    style = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed} < {remaining}"
    with tqdm(total=sum(_steps(cell, a.rounds) * cell.work for cell in work), bar_format=style, smoothing=0) as bar:
        done = 0.0
        for number, cell in enumerate(work, 1):
            bar.set_description(f"{number}/{len(work)} {cell.name}")
            how = partial(measure.measure_times, rounds=a.rounds, budget=budget, malloc=a.malloc)
            try:
                entries = processes.isolated(
                    measure.measure_memory if cell.kind == "memory" else how, cell, device, threads, told=bar.update
                )
            except processes.Died as died:
                failures.append(f"{cell.name}: {died}")
            else:
                about = {"kind": cell.kind, "dtype": cell.dtype, "mode": cell.mode, **provenance}
                cells.keep(a.out / f"{cell.name}.json", about | {"entries": entries})
            done += _steps(cell, a.rounds) * cell.work
            bar.update(done - bar.n)
    return failures


def _steps(cell: cells.Cell, rounds: int) -> int:
    return 1 if cell.kind == "memory" else rounds + 1


def same_settings(settings: dict[str, Any], out: Path) -> None:
    """Writes what figures depend on beside them, or compares it.

    Raises:
        UsageError: the folder has figures of another machine or of other sizes.
    """
    kept = cells.read(out / "settings.json")
    other = [key for key, value in settings.items() if kept and key != "linformer" and kept.get(key) != value]
    if kept and other:
        raise UsageError(
            f"--out {out} has figures with another {other[0]} ({kept.get(other[0])}, now {settings[other[0]]}); "
            "choose another folder"
        )
    cells.keep(out / "settings.json", settings)


if __name__ == "__main__":
    with as_one_sentence():
        main(sys.argv[1:])

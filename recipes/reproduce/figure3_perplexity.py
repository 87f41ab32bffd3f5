"""Figure 3 of the paper at small scale: validation perplexity of Linformer beside exact attention and controls.

    python recipes/reproduce/figure3_perplexity.py DATA --out RUN --parallel 2 --report docs/benchmarks/figure3

Every variant is the recipe `tiny_n512_k128` with one change, trained by the real fairseq-train on one CPU thread with
the same data, order and masks. Minutes are processor minutes of one core, so that trainings beside each other can be
compared. With several seeds, the table has medians with the least and the greatest, and the picture the first seed.
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from linformer_fairseq.measuring.plots import Panel, plot_lines
from linformer_fairseq.measuring.study import Cells, Measurement, Results, in_a_process, markdown
from linformer_fairseq.measuring.trainings import TOKENS, schedule, train

Curve = list[dict[str, Any]]
ROBERTA = {"_name": "roberta", "encoder_layers": 2, "encoder_embed_dim": 128, "encoder_ffn_embed_dim": 512}
ROBERTA |= {"encoder_attention_heads": 4, "max_positions": 512, "dropout": 0.0, "attention_dropout": 0.0}
# Name in tables and plots -> settings that differ from the recipe, whose local convolution is 9 wide.
VARIANTS: dict[str, dict[str, Any]] = {
    "Linformer + local conv": {},
    "adaptive + local conv": {"model.projection": "adaptive"},
    "adaptive, window of 16 + local conv": {"model.projection": "adaptive", "model.local_window": 16},
    "exact attention + local conv": {"model.attention": "exact"},
    "no attention + local conv": {"model.attention": "none"},
    "Linformer": {"model.local_conv": 0},
    "exact attention": {"model.attention": "exact", "model.local_conv": 0},
    "fairseq's roberta": {"model": ROBERTA},
    "no attention": {"model.attention": "none", "model.local_conv": 0},
}


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="folder made by `python -m data_prep binarize`")
    parser.add_argument("--updates", type=int, default=4900, help="updates of 4,096 tokens (default: %(default)s)")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="trainings at a time, one thread each")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="trainings of a variant (default: 1)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    work = {}
    for seed in range(1, options.seeds + 1):
        for variant in options.variants:
            run = options.out / f"run-{list(VARIANTS).index(variant)}-{seed}"
            work[cell(variant, seed)] = in_a_process(train_variant, variant, seed, options.data, run, options.updates)
    cells.run(work, parallel=options.parallel)


def cell(variant: str, seed: int) -> str:
    return variant if seed == 1 else f"{variant}, seed {seed}"


def train_variant(variant: str, seed: int, data: Path, run: Path, updates: int) -> Curve:
    """Points of a training: update, split (train or valid), loss (bits), perplexity, processor seconds so far."""
    settings = {**schedule(updates), "common.log_interval": 50, "common.seed": seed, **VARIANTS[variant]}
    start = time.monotonic()
    metrics = train(data, run, settings, cell(variant, seed))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the last start, if there were several
    share = (used.ru_utime + used.ru_stime) / (time.monotonic() - start)
    names = ("update", "split", "loss", "perplexity")
    return [{n: m[n] for n in names} | {"cpu_seconds": round(m["seconds"] * share, 1)} for m in metrics]


def validations(results: Results) -> dict[str, list[Curve]]:
    """The points of validation by variant, a curve for each seed."""
    names = {variant: [n for n in results["cells"] if n.partition(", seed ")[0] == variant] for variant in VARIANTS}
    curves = {
        variant: [[p for p in results["cells"][name] if p["split"] == "valid"] for name in sorted(found)]
        for variant, found in names.items()
    }
    return {variant: found for variant, found in curves.items() if found}


def table(results: Results) -> str:
    """Perplexity at equal tokens, and at the minutes in which the first variant was done."""
    curves = validations(results)
    first = next(iter(curves.values()))[0]
    seconds = first[-1]["cpu_seconds"]
    shown = [len(first) // 4, len(first) // 2, len(first) - 1]
    rows = []
    for name, seeds in curves.items():
        found = [[valid[i]["perplexity"] for valid in seeds] for i in shown]
        found.append([perplexity_at(valid, seconds) for valid in seeds])
        minutes = median(valid[-1]["cpu_seconds"] / 60 for valid in seeds)
        rows.append([name, *map(of_seeds, found), f"{minutes:.0f}"])
    tokens = [f"{first[i]['update'] * TOKENS / 1e6:.0f} M tokens" for i in shown]
    return markdown(["", *tokens, f"at {seconds / 60:.0f} min", "minutes for all"], rows)


def of_seeds(values: list[float]) -> str:
    """A figure of each seed: the median, and the least and the greatest of several."""
    found = f"{median(values):.1f}"
    return found if len(values) == 1 else f"{found} ({min(values):.1f}-{max(values):.1f})"


def perplexity_at(valid: Curve, seconds: float) -> float:
    """Validation perplexity after that many processor seconds, interpolated; the last one after the end."""
    for before, after in zip(valid, valid[1:], strict=False):
        if before["cpu_seconds"] <= seconds < after["cpu_seconds"]:
            share = (seconds - before["cpu_seconds"]) / (after["cpu_seconds"] - before["cpu_seconds"])
            return float(before["perplexity"] * (after["perplexity"] / before["perplexity"]) ** share)
    return float(valid[-1 if seconds >= valid[-1]["cpu_seconds"] else 0]["perplexity"])


def plot(results: Results, path: Path) -> None:
    curves = [(name, seeds[0]) for name, seeds in validations(results).items()]
    by_tokens = {name: [(p["update"] * TOKENS / 1e6, p["perplexity"]) for p in valid] for name, valid in curves}
    by_minutes = {name: [(p["cpu_seconds"] / 60, p["perplexity"]) for p in valid] for name, valid in curves}
    panels = [Panel("million tokens", by_tokens), Panel("minutes of one processor core", by_minutes)]
    styles = {name: ":" if "no attention" in name else "-" if "Linformer" in name else "--" for name in VARIANTS}
    plot_lines(path, "validation perplexity", panels, styles.__getitem__)


MEASUREMENT = Measurement(
    *(__file__, __doc__, flags, measure, table, {"curves.png": plot}),
    quick={"updates": 20},
    choices=("variants", "parallel", "seeds"),
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

"""Figure 3 of the paper at small scale: validation perplexity of Linformer beside exact attention and controls.

    python recipes/reproduce/figure3_perplexity.py DATA --out RUN --parallel 2 --report docs/benchmarks/figure3

Every variant is the recipe `tiny_n512_k128` with one change, trained by the real fairseq-train on one CPU thread with
the same data, order, masks and seed. Minutes are processor minutes of one core, so that trainings beside each other can
be compared.
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path
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
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    work = {
        name: in_a_process(train_variant, name, options.data, options.out / f"run-{number}", options.updates)
        for number, name in enumerate(VARIANTS)
    }
    cells.run({name: work[name] for name in options.variants}, parallel=options.parallel)


def train_variant(variant: str, data: Path, run: Path, updates: int) -> Curve:
    """Points of a training: update, split (train or valid), loss (bits), perplexity, processor seconds so far."""
    settings = {**schedule(updates), "common.log_interval": 50, **VARIANTS[variant]}
    start = time.monotonic()
    metrics = train(data, run, settings, variant)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the last start, if there were several
    share = (used.ru_utime + used.ru_stime) / (time.monotonic() - start)
    names = ("update", "split", "loss", "perplexity")
    return [{n: m[n] for n in names} | {"cpu_seconds": round(m["seconds"] * share, 1)} for m in metrics]


def validations(results: Results) -> dict[str, Curve]:
    """The points of validation by variant."""
    cells = results["cells"]
    return {name: [p for p in cells[name] if p["split"] == "valid"] for name in VARIANTS if name in cells}


def table(results: Results) -> str:
    """Perplexity at equal tokens, and at the minutes in which the first variant was done."""
    curves = validations(results)
    first = next(iter(curves.values()))
    seconds = first[-1]["cpu_seconds"]
    shown = [first[i]["update"] for i in (len(first) // 4, len(first) // 2, len(first) - 1)]
    rows = []
    for name, valid in curves.items():
        at = {p["update"]: f"{p['perplexity']:.1f}" for p in valid}
        minutes = f"{valid[-1]['cpu_seconds'] / 60:.0f}"
        rows.append([name, *(at.get(n) for n in shown), f"{perplexity_at(valid, seconds):.1f}", minutes])
    tokens = [f"{n * TOKENS / 1e6:.0f} M tokens" for n in shown]
    return markdown(["", *tokens, f"at {seconds / 60:.0f} min", "minutes for all"], rows)


def perplexity_at(valid: Curve, seconds: float) -> float:
    """Validation perplexity after that many processor seconds, interpolated; the last one after the end."""
    for before, after in zip(valid, valid[1:], strict=False):
        if before["cpu_seconds"] <= seconds < after["cpu_seconds"]:
            share = (seconds - before["cpu_seconds"]) / (after["cpu_seconds"] - before["cpu_seconds"])
            return float(before["perplexity"] * (after["perplexity"] / before["perplexity"]) ** share)
    return float(valid[-1 if seconds >= valid[-1]["cpu_seconds"] else 0]["perplexity"])


def plot(results: Results, path: Path) -> None:
    curves = validations(results).items()
    by_tokens = {name: [(p["update"] * TOKENS / 1e6, p["perplexity"]) for p in valid] for name, valid in curves}
    by_minutes = {name: [(p["cpu_seconds"] / 60, p["perplexity"]) for p in valid] for name, valid in curves}
    panels = [Panel("million tokens", by_tokens), Panel("minutes of one processor core", by_minutes)]
    styles = {name: ":" if "no attention" in name else "-" if "Linformer" in name else "--" for name in VARIANTS}
    plot_lines(path, "validation perplexity", panels, styles.__getitem__)


MEASUREMENT = Measurement(
    *(__file__, __doc__, flags, measure, table, {"curves.png": plot}),
    quick={"updates": 20},
    choices=("variants", "parallel"),
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

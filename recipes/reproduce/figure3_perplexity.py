"""Figure 3 of the paper at small scale: validation perplexity of Linformer beside exact attention and controls.

    python recipes/reproduce/figure3_perplexity.py DATA --out RUN --parallel 2
    python recipes/reproduce/figure3_perplexity.py DATA --out RUN --report docs/benchmarks/figure3

Every variant is the recipe `tiny_n512_k128` with one change, trained by the real fairseq-train on one CPU thread with
the same data, order, masks and seed. Minutes are processor minutes of one core, so that trainings beside each other can
be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.plots import Panel, plot_lines
from linformer_fairseq.measuring.study import Cells, Measurement, Results, markdown
from linformer_fairseq.measuring.trainings import RECIPE, TOKENS, schedule
from linformer_fairseq.plugin import register
from linformer_fairseq.training.progress import parse_line, program
from linformer_fairseq.training.recipe import fairseq_train_argv

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
    register()  # once, and before there are threads: it imports
    work = {
        name: partial(run_variant, name, options.data, options.out / f"run-{number}", options.updates)
        for number, name in enumerate(VARIANTS)
        if name in options.variants
    }
    cells.run(work, parallel=options.parallel)


def run_variant(variant: str, data: Path, run: Path, updates: int) -> Curve:
    """Trains one variant, or the rest of it, and returns its curve (see `read_curve`)."""
    run.mkdir(parents=True, exist_ok=True)
    file = run / "curve.jsonl"
    earlier = read_curve(file)
    settings = {**schedule(updates), "dataset.num_workers": 0, "common.log_interval": 50, **VARIANTS[variant]}
    spent_before: float | None = None
    with file.open("a") as curve:
        for figures, cpu_seconds in _trained(fairseq_train_argv(RECIPE, data, run / "checkpoints", settings), run):
            point = {key: figures[key] for key in ("num_updates", "split", "loss", "ppl")}
            if spent_before is None:
                before = [p["cpu_seconds"] for p in earlier if p["num_updates"] < point["num_updates"]]
                spent_before = max(before, default=0.0)
            point["cpu_seconds"] = round(spent_before + cpu_seconds, 1)
            curve.write(json.dumps(point) + "\n")
            curve.flush()
    return read_curve(file)


def _trained(argv: Sequence[str], run: Path) -> Iterator[tuple[dict[str, Any], float]]:
    """Figures of a training while it runs, each with the processor seconds that it has used so far (Linux)."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    output: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with (run / "train.log").open("a") as log, subprocess.Popen(program(argv), **output, env=one_thread) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            if figures := parse_line(line):
                fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
                yield figures, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    if process.returncode:
        raise UsageError(f"fairseq-train failed; see {run / 'train.log'}")


def read_curve(file: Path) -> Curve:
    """The points of a training in order of updates; of an update that was done twice, the later one.

    Each has `num_updates`, `split` (train or valid), `loss` (bits), `ppl` and `cpu_seconds` since the start.
    """
    points = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    latest = {(p["num_updates"], p["split"]): p for p in points}
    return [latest[key] for key in sorted(latest)]


def validations(results: Results) -> dict[str, Curve]:
    """The points of validation by variant."""
    cells = results["cells"]
    return {name: [p for p in cells[name] if p["split"] == "valid"] for name in VARIANTS if name in cells}


def table(results: Results) -> str:
    """Perplexity at equal tokens, and at the minutes in which the first variant was done."""
    curves = validations(results)
    first = next(iter(curves.values()))
    seconds = first[-1]["cpu_seconds"]
    shown = [first[i]["num_updates"] for i in (len(first) // 4, len(first) // 2, len(first) - 1)]
    tokens = [f"{n * TOKENS / 1e6:.0f} M tokens" for n in shown]
    rows = []
    for name, valid in curves.items():
        at = {p["num_updates"]: f"{p['ppl']:.1f}" for p in valid}
        minutes = f"{valid[-1]['cpu_seconds'] / 60:.0f}"
        rows.append([name, *(at.get(n) for n in shown), f"{perplexity_at(valid, seconds):.1f}", minutes])
    return markdown(["", *tokens, f"at {seconds / 60:.0f} min", "minutes for all"], rows)


def perplexity_at(valid: Curve, seconds: float) -> float:
    """Validation perplexity after that many processor seconds, interpolated; the last one for a run that was done."""
    for before, after in zip(valid, valid[1:], strict=False):
        if before["cpu_seconds"] <= seconds < after["cpu_seconds"]:
            share = (seconds - before["cpu_seconds"]) / (after["cpu_seconds"] - before["cpu_seconds"])
            return float(before["ppl"] * (after["ppl"] / before["ppl"]) ** share)
    return float(valid[-1]["ppl"] if seconds >= valid[-1]["cpu_seconds"] else valid[0]["ppl"])


def plot(results: Results, path: Path) -> None:
    curves = validations(results).items()
    by_tokens = {name: [(p["num_updates"] * TOKENS / 1e6, p["ppl"]) for p in valid] for name, valid in curves}
    by_minutes = {name: [(p["cpu_seconds"] / 60, p["ppl"]) for p in valid] for name, valid in curves}
    panels = [Panel("million tokens", by_tokens), Panel("minutes of one processor core", by_minutes)]
    plot_lines(
        path, "validation perplexity", panels, lambda n: ":" if "no attention" in n else "-" if "L" in n else "--"
    )


MEASUREMENT = Measurement(
    *(__file__, __doc__, flags, measure, table),
    pictures={"curves.png": plot},
    quick={"updates": 20},
    choices=("variants", "parallel"),
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

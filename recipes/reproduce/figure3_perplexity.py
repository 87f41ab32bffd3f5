"""Figure 3 of the paper at small scale: validation perplexity of Linformer beside exact attention and controls.

    python recipes/reproduce/figure3_perplexity.py DATA --out RUN --parallel 2
    python recipes/reproduce/figure3_perplexity.py DATA --out RUN --report docs/benchmarks/figure3

Every variant is the recipe `tiny_n512_k128` with one change, run by the real fairseq-train on one CPU thread with the
same data, order, masks and seed. Stopped, it goes on where it was; finished variants are left alone. Minutes are
processor minutes of one core, so that runs beside each other can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "recipes"))

from linformer_fairseq.plugin import register  # noqa: E402
from linformer_fairseq.training.progress import parse_line, program  # noqa: E402
from linformer_fairseq.training.recipe import fairseq_train_argv  # noqa: E402
from recipes.reproduce.figure3_report import write_report  # noqa: E402

RECIPE = ROOT / "recipes/pretrain/tiny_n512_k128.yaml"
TOKENS_PER_UPDATE = 8 * 512
CURVE = "curve.jsonl"

# Name in tables and plots -> settings that differ from the recipe, whose local convolution is 9 wide.
VARIANTS: dict[str, dict[str, Any]] = {
    "Linformer + local conv": {},
    "exact attention + local conv": {"model.attention": "exact"},
    "no attention + local conv": {"model.attention": "none"},
    "Linformer": {"model.local_conv": 0},
    "exact attention": {"model.attention": "exact", "model.local_conv": 0},
    "fairseq's roberta": {
        "model": {
            "_name": "roberta",
            "encoder_layers": 2,
            "encoder_embed_dim": 128,
            "encoder_ffn_embed_dim": 512,
            "encoder_attention_heads": 4,
            "max_positions": 512,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        }
    },
    "no attention": {"model.attention": "none", "model.local_conv": 0},
}


def folder_name(variant: str) -> str:
    """A folder name for a variant: "Linformer + local conv" -> "linformer-local-conv"."""
    return "-".join("".join(c if c.isalnum() else " " for c in variant.lower()).split())


def run_variant(variant: str, data: str, out: Path, updates: int) -> list[dict[str, Any]]:
    """Trains one variant, or the rest of it, and returns its curve (see `read_curve`)."""
    run = out / folder_name(variant)
    run.mkdir(parents=True, exist_ok=True)
    earlier = read_curve(run)
    if earlier and earlier[-1]["split"] == "valid" and earlier[-1]["num_updates"] >= updates:
        return earlier
    overrides = {
        "optimization.max_update": updates,
        "lr_scheduler.total_num_update": updates,
        "lr_scheduler.warmup_updates": updates // 10,
        "dataset.validate_interval_updates": updates // 10,
        "dataset.num_workers": 0,
        "checkpoint.save_interval_updates": updates // 10,
        "common.log_interval": 50,
        **VARIANTS[variant],
    }
    argv = fairseq_train_argv(RECIPE, data, run / "checkpoints", overrides)
    process = subprocess.Popen(
        program(argv),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    spent_before: float | None = None
    with (run / "train.log").open("a") as log, (run / CURVE).open("a") as curve:
        for line, cpu_seconds in _lines_with_cpu_time(process):
            log.write(line)
            figures = parse_line(line)
            if figures is None:
                continue
            point = {key: figures[key] for key in ("num_updates", "split", "loss", "ppl")}
            if spent_before is None:
                before = [p["cpu_seconds"] for p in earlier if p["num_updates"] < point["num_updates"]]
                spent_before = max(before, default=0.0)
            point["cpu_seconds"] = round(spent_before + cpu_seconds, 1)
            curve.write(json.dumps(point) + "\n")
            curve.flush()
            if point["split"] == "valid":
                print(f"{variant}: update {point['num_updates']:.0f} of {updates}, perplexity {point['ppl']}")
    if process.wait():
        raise SystemExit(f"{variant}: fairseq-train failed; see {run / 'train.log'}")
    return read_curve(run)


def read_curve(run: Path) -> list[dict[str, Any]]:
    """The points of a run in order of updates; of an update that was done twice, the later one.

    Each has `num_updates`, `split` (train or valid), `loss` (bits), `ppl` and `cpu_seconds` since the start.
    """
    if not (run / CURVE).exists():
        return []
    points = [json.loads(line) for line in (run / CURVE).read_text().splitlines()]
    latest = {(p["num_updates"], p["split"]): p for p in points}
    return [latest[key] for key in sorted(latest)]


def _lines_with_cpu_time(process: subprocess.Popen[str]) -> Iterator[tuple[str, float]]:
    """Lines of a process' output, each with the processor seconds it has used so far (Linux)."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended; what is left are its last words
            continue
        yield line, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder made by `python -m data_prep binarize`")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--updates", type=int, default=4900, help="updates of 4,096 tokens (default: 20 M tokens)")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="runs at a time, one CPU thread each")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write results.json, table.md and curves.png here")
    options = parser.parse_args(arguments)
    register()  # once, and before there are threads: it imports
    with ThreadPoolExecutor(options.parallel) as pool:
        curves = dict(
            zip(
                options.variants,
                pool.map(lambda v: run_variant(v, options.data, options.out, options.updates), options.variants),
                strict=True,
            )
        )
    if options.report:
        write_report(curves, TOKENS_PER_UPDATE, options.report)
        print(f"wrote {options.report}/table.md, curves.png and results.json")


if __name__ == "__main__":
    main(sys.argv[1:])

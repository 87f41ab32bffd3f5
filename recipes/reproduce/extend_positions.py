"""How well a trained Linformer reads longer inputs: extended by each method, and beside training from scratch.

    make demo
    python recipes/reproduce/extend_positions.py demo-run/data demo-run/checkpoints/checkpoint_last.pt --out extend-run

Perplexity at the length that the checkpoint was trained for and at the new one, right after `convert.py extend` and
after a short training at the new length, all with fairseq's own programs. Runs that are finished are not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]

from linformer_fairseq.checkpoints.checkpoint import encoder_config, read, write  # noqa: E402
from linformer_fairseq.checkpoints.extend import METHODS, extend  # noqa: E402
from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.training.progress import parse_line, run_logged  # noqa: E402
from linformer_fairseq.training.recipe import fairseq_train_argv  # noqa: E402

RECIPE = ROOT / "recipes/pretrain/tiny_n512_k128.yaml"
TOKENS_PER_UPDATE = 4096
SCRATCH = "from scratch"


@dataclass(frozen=True)
class Row:
    """Perplexities of one way: right after conversion and after the training, at the old and the new length."""

    length: int
    way: str
    before: tuple[float | None, float | None]
    after: tuple[float, float]


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="binarised data")
    parser.add_argument("checkpoint", type=Path, help="a trained linformer_roberta_tiny")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096], help="new lengths (default: 2048 4096)")
    parser.add_argument("--updates", type=int, default=200, help="of 4,096 tokens at the new length (default: 200)")
    parser.add_argument(
        "--lr", type=float, default=3e-4, help="of the extended ones (default: 3e-4; from scratch 2e-3)"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table here")
    a = parser.parse_args(arguments)
    short = encoder_config(read(a.checkpoint)).max_positions
    original = perplexity(a.data, a.checkpoint, short, a.out / "original")
    rows = [measure(a, short, length, way) for length in a.lengths for way in (*METHODS, SCRATCH)]
    text = table(rows, short, original, read(a.checkpoint).updates, a.updates)
    print(text)
    if a.report:
        a.report.parent.mkdir(parents=True, exist_ok=True)
        a.report.write_text(text + "\n", encoding="utf-8")


def measure(a: argparse.Namespace, short: int, length: int, way: str) -> Row:
    """Converts, trains and validates one way."""
    folder = a.out / f"{length} {way}"
    start: Path | None = None
    before: tuple[float | None, float | None] = (None, None)
    if way != SCRATCH:
        start = folder / "start.pt"
        write(extend(read(a.checkpoint), length, method=way), start, force=True)
        before = (perplexity(a.data, start, short, folder), perplexity(a.data, start, length, folder))
    last = folder / "checkpoints/checkpoint_last.pt"
    if not (last.exists() and read(last).updates >= a.updates):
        train(a, length, start, folder)
    return Row(length, way, before, (perplexity(a.data, last, short, folder), perplexity(a.data, last, length, folder)))


def train(a: argparse.Namespace, length: int, start: Path | None, folder: Path) -> None:
    """Trains at the new length: `--updates` of them, from the converted checkpoint or from nothing."""
    overrides = {
        "task.tokens_per_sample": length,
        "dataset.batch_size": max(1, TOKENS_PER_UPDATE // length),
        "model.max_positions": length,
        "optimization.max_update": a.updates,
        "optimization.lr": [a.lr] if start else [2e-3],
        "lr_scheduler.total_num_update": a.updates,
        "lr_scheduler.warmup_updates": a.updates // 10,
        "dataset.validate_interval_updates": a.updates,
        "checkpoint.save_interval_updates": a.updates,
    }
    argv = fairseq_train_argv(RECIPE, a.data, folder / "checkpoints", overrides)
    if start:
        argv += ["--restore-file", str(start)]
    run_logged(argv, folder / "train.log", range(a.updates), f"{folder.name}")


def perplexity(data: str, checkpoint: Path, length: int, folder: Path) -> float:
    """Of the masked tokens of the validation set, in blocks of `length` tokens; kept beside the run."""
    kept = folder / f"{checkpoint.stem}-{length}.json"
    if kept.exists():
        return float(json.loads(kept.read_text()))
    log = kept.with_suffix(".log")
    log.unlink(missing_ok=True)
    overrides = repr({"tokens_per_sample": length, "data": data})
    argv = ["fairseq-validate", data, "--user-dir", str(USER_DIR), "--task", "masked_lm", "--path", str(checkpoint)]
    argv += ["--batch-size", str(max(1, TOKENS_PER_UPDATE // length)), "--required-batch-size-multiple", "1"]
    run_logged([*argv, "--model-overrides", overrides, "--log-format", "json"], log)
    found = [figures["ppl"] for line in log.read_text().splitlines() if (figures := parse_line(line))][-1]
    kept.write_text(json.dumps(found))
    return float(found)


def table(rows: list[Row], short: int, original: float, trained: int, updates: int) -> str:
    """The Markdown table."""
    trained_to = f"The checkpoint: {trained} updates at {short} tokens, perplexity {original:.1f}."
    after = f"after {updates} updates"
    lines = [
        f"{trained_to} An update has {TOKENS_PER_UPDATE:,} tokens.",
        "",
        f"| length | way | converted, at {short} | at the length | {after}, at {short} | at the length |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        figures = ["" if value is None else f"{value:.1f}" for value in (*row.before, *row.after)]
        lines.append(f"| {row.length} | {row.way} | {' | '.join(figures)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])

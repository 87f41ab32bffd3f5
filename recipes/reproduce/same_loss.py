"""What makes an update fast changes no result: loss curves of fairseq's loss and Adam beside ours, and of bfloat16.

    python recipes/reproduce/same_loss.py DATA --out RUN --report docs/benchmarks/updates/same_loss.md

Trains `linformer_roberta_tiny` on DATA, a folder of binarised text, three times with the same batches, masks and start,
and validates. Stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]

from linformer_fairseq.training.metrics import read_metrics  # noqa: E402
from linformer_fairseq.training.progress import run_logged  # noqa: E402
from recipes.reproduce.command import as_typed  # noqa: E402

OURS = ("--criterion", "fused_masked_lm", "--optimizer", "fused_adamw")
# Name in the report -> what the training has of its own.
TRAININGS: dict[str, tuple[str, ...]] = {
    "masked_lm and adam": ("--criterion", "masked_lm", "--optimizer", "adam"),
    "fused_masked_lm and fused_adamw": OURS,
    "fused_masked_lm and fused_adamw, --bf16": (*OURS, "--bf16"),
}
COMPARED = 100  # updates
LARGEST_DIFFERENCE = 1e-5  # of a loss, relative
LARGEST_RATIO = 1.01  # of perplexities


def train(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` of one training, which is done first if it has not been."""
    folder = options.out / "-".join("".join(c if c.isalnum() else " " for c in name).split())
    updates, warm_up = options.updates, max(1, options.updates // 10)
    if not (folder / "metrics.jsonl").exists() or read_metrics(folder)[-1]["split"] != "valid":
        argv = [
            *("fairseq-train", str(options.data), "--user-dir", str(ROOT / "linformer_fairseq"), "--task", "masked_lm"),
            *("--arch", "linformer_roberta_tiny", "--dropout", "0", "--attention-dropout", "0", "--seed", "1"),
            *("--tokens-per-sample", "512", "--projected-length", "128", "--sample-break-mode", "complete"),
            *("--batch-size", str(options.batch_size), "--required-batch-size-multiple", "1", "--num-workers", "0"),
            *("--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-6", "--weight-decay", "0.01", "--clip-norm", "1.0"),
            *("--lr-scheduler", "polynomial_decay", "--lr", "2e-3", "--warmup-updates", str(warm_up)),
            *("--total-num-update", str(updates), "--max-update", str(updates), *TRAININGS[name]),
            *("--log-format", "json", "--log-interval", "1", "--no-epoch-checkpoints", "--save-dir", str(folder)),
        ]
        run_logged(argv, folder / "train.log", range(updates), name)
    return read_metrics(folder)


def report(lines: dict[str, list[dict[str, Any]]], options: argparse.Namespace, command: str) -> str:
    """As Markdown: the largest difference of the curves, and the perplexities."""
    plain, ours, bf16 = lines.values()
    updates = min(COMPARED, options.updates)
    pairs = list(zip(curve(plain)[:updates], curve(ours)[:updates], strict=True))
    largest = max(abs(one - other) / one for one, other in pairs)
    perplexity = {name: float(found[-1]["perplexity"]) for name, found in lines.items()}
    ratio = float(bf16[-1]["perplexity"]) / float(ours[-1]["perplexity"])
    rows = "".join(
        f"| {name} | {curve(found)[0]:.4f} | {curve(found)[updates - 1]:.4f} | {perplexity[name]:.2f} |\n"
        for name, found in lines.items()
    )
    same = "met" if largest <= LARGEST_DIFFERENCE else "**not met**"
    near = "met" if ratio <= LARGEST_RATIO else "**not met**"
    return (
        f"# The same loss\n\n`{command}`: `linformer_roberta_tiny`, n = 512, k = 128, no dropout, {options.updates} "
        f"updates of {options.batch_size} rows; torch {version('torch')}, ve-fairseq {version('ve-fairseq')}.\n\n"
        f"| | loss at update 1 (bits) | at update {updates} | validation perplexity at the end |\n"
        f"| --- | ---: | ---: | ---: |\n{rows}\n"
        "| | required | seen | |\n| --- | ---: | ---: | --- |\n"
        f"| largest relative difference of the first two curves over {updates} updates | {LARGEST_DIFFERENCE:.0e} "
        f"| {largest:.1e} | {same} |\n"
        f"| perplexity with --bf16 over that without | {LARGEST_RATIO} | {ratio:.4f} | {near} |\n"
    )


def curve(lines: Sequence[dict[str, Any]]) -> list[float]:
    """Loss of each update, in bits."""
    return [float(line["loss"]) for line in lines if line["split"] == "train"]


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of binarised text")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trainings")
    parser.add_argument("--report", type=Path, help="Markdown file (default: OUT/same_loss.md)")
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=8, help="rows of 512 tokens in an update")
    options = parser.parse_args(argv)
    lines = {name: train(name, options) for name in TRAININGS}
    command = as_typed(__file__, sys.argv[1:] if argv is None else argv)
    text = report(lines, options, command)
    print(text)
    file = options.report or options.out / "same_loss.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_name(file.name + ".part").write_text(text, encoding="utf-8")
    file.with_name(file.name + ".part").replace(file)


if __name__ == "__main__":
    main()

"""What makes an update fast changes no result: loss curves of fairseq's loss and Adam beside ours, and of bfloat16.

    python recipes/measure/same_loss.py DATA --out RUN --report docs/benchmarks/updates/same_loss.md

Trains `linformer_roberta_tiny` without dropout on DATA, a folder of binarised text, three times with the same batches,
masks and start, and validates.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from linformer_fairseq.measuring.study import Cells, Measurement, comparison
from linformer_fairseq.measuring.trainings import curve, schedule, train
from linformer_fairseq.training.metrics import read_metrics

OURS = {"criterion._name": "fused_masked_lm", "optimizer._name": "fused_adamw"}
# Name in the report -> what the training has of its own.
TRAININGS: dict[str, dict[str, Any]] = {
    "masked_lm and adam": {},
    "fused_masked_lm and fused_adamw": OURS,
    "fused_masked_lm and fused_adamw, --bf16": OURS | {"common.bf16": True},
}
COMPARED = 100  # updates


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="folder of binarised text")
    parser.add_argument("--updates", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=8, help="rows of 512 tokens (default: %(default)s)")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    cells.run({name: partial(measure_one, options, name) for name in TRAININGS})


def measure_one(options: argparse.Namespace, name: str) -> dict[str, float]:
    """Losses in bits, the largest difference from the curve of the first training, and the validation perplexity."""
    rows = {"dataset.batch_size": options.batch_size, "dataset.num_workers": 0, "common.log_interval": 1}
    run = options.out / f"run-{list(TRAININGS).index(name)}"
    metrics = train(options.data, run, {**schedule(options.updates, 1), **rows, **TRAININGS[name]}, name)
    both = (read_metrics(options.out / "run-0/checkpoints"), metrics)
    firsts, losses = ([line["loss"] for line in found if line["split"] == "train"] for found in both)
    pairs = list(zip(firsts, losses, strict=False))[:COMPARED]
    return {
        "loss at update 1": losses[0],
        f"at update {len(pairs)}": losses[len(pairs) - 1],
        f"largest relative difference over {len(pairs)} updates": max(abs(a - b) / a for a, b in pairs),
        "validation perplexity at the end": curve(metrics)[-1][1],
    }


TABLE = comparison("The same loss", "`linformer_roberta_tiny`, n = 512, k = 128, no dropout; losses in bits.")
MEASUREMENT = Measurement(__file__, __doc__, flags, measure, TABLE, quick={"updates": 5, "batch_size": 2})

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

"""What makes an update fast changes no result: loss curves of fairseq's loss and Adam beside ours, and of bfloat16.

    python recipes/measure/same_loss.py DATA --out RUN --report docs/benchmarks/updates/same_loss.md

Trains `linformer_roberta_tiny` without dropout on DATA, a folder of binarised text, three times with the same batches,
masks and start, and validates.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from linformer_fairseq.measuring.study import Cells, Measurement, Results, heading, markdown
from linformer_fairseq.measuring.trainings import curve, schedule, train

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


def measure_one(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Loss of each update in bits, and the validation perplexity in the end."""
    settings = {
        **schedule(options.updates, 1),
        "dataset.batch_size": options.batch_size,
        "dataset.num_workers": 0,
        "common.log_interval": 1,
        **TRAININGS[name],
    }
    metrics = train(options.data, options.out / f"run-{list(TRAININGS).index(name)}", settings, name)
    losses = [line["loss"] for line in metrics if line["split"] == "train"]
    return {"losses": losses, "perplexity": curve(metrics)[-1][1]}


def table(results: Results) -> str:
    """The largest difference of the curves, and the perplexities."""
    cells, settings = results["cells"], results["settings"]
    updates = min(COMPARED, settings["updates"])
    rows = [
        [name, f"{cell['losses'][0]:.4f}", f"{cell['losses'][updates - 1]:.4f}", f"{cell['perplexity']:.2f}"]
        for name in TRAININGS
        for cell in [cells[name]]
    ]
    plain, ours, bf16 = (cells[name] for name in TRAININGS)
    pairs = list(zip(plain["losses"][:updates], ours["losses"][:updates], strict=True))
    about = f"`linformer_roberta_tiny`, n = 512, k = 128, no dropout, {settings['updates']} updates of "
    about += f"{settings['batch_size']} rows."
    header = ["", "loss at update 1 (bits)", f"at update {updates}", "validation perplexity at the end"]
    return (
        heading("The same loss", results, about)
        + markdown(header, rows)
        + f"\nOver {updates} updates the largest relative difference of the first two curves is "
        f"{max(abs(one - other) / one for one, other in pairs):.1e}. The perplexity with --bf16 is "
        f"{bf16['perplexity'] / ours['perplexity']:.4f} times that without.\n"
    )


MEASUREMENT = Measurement(*(__file__, __doc__, flags, measure, table), quick={"updates": 5, "batch_size": 2})

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

"""How well a trained Linformer reads longer inputs: extended by each method, and beside training from scratch.

    make demo
    python recipes/measure/extend_positions.py demo-run/data demo-run/checkpoints/checkpoint_last.pt --out extend-run

Perplexity at the length that the checkpoint was trained for and at the new one, right after `linformer convert extend`
and after a short training at the new length, all by fairseq's own programs.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from linformer_fairseq.checkpoints.checkpoint import encoder_config, read, write
from linformer_fairseq.checkpoints.extend import METHODS, extend
from linformer_fairseq.measuring.study import Cells, Measurement, comparison
from linformer_fairseq.measuring.trainings import TOKENS, longer, perplexity, schedule, train

SCRATCH = "from scratch"
WAYS = (*METHODS, SCRATCH)


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="folder of binarised text")
    parser.add_argument("checkpoint", type=Path, help="a trained linformer_roberta_tiny")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096], help="new lengths (default: 2048 4096)")
    parser.add_argument("--updates", type=int, default=200, help="of 4,096 tokens at the new length (default: 200)")
    parser.add_argument("--lr", type=float, default=3e-4, help="after extending (default: 3e-4; from scratch 2e-3)")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    source = read(options.checkpoint)
    short = encoder_config(source).max_positions
    options.out.mkdir(parents=True, exist_ok=True)

    def original() -> dict[str, float]:
        found = perplexity(options.data, options.checkpoint, short, options.out / "original.log")
        return {"at the old length": found}

    ways = [(length, way) for length in options.lengths for way in WAYS]
    cells.run(
        {f"the checkpoint, {source.updates:,} updates at {short}": original}
        | {f"{n}, {way}": partial(measure_way, options, short, n, way) for n, way in ways}
    )


def measure_way(options: argparse.Namespace, short: int, length: int, way: str) -> dict[str, float]:
    """Perplexity at the old and the new length: right after conversion, unless from scratch, and after training."""
    folder = options.out / f"{length} {way}"

    def both(checkpoint: Path, when: str) -> dict[str, float]:
        return {
            f"{when}{where}": perplexity(options.data, checkpoint, n, folder / f"{checkpoint.stem}-{n}.log")
            for where, n in (("at the old length", short), ("at the new", length))
        }

    settings = schedule(options.updates, 1) | longer(length) | {"model.max_positions": length}
    start, found = None, {}
    if way != SCRATCH:
        start = folder / "start.pt"
        write(extend(read(options.checkpoint), length, method=way), start, force=True)
        found = both(start, "")
        settings["optimization.lr"] = [options.lr]
    train(options.data, folder, settings, folder.name, start)
    return found | both(folder / "checkpoints/checkpoint_last.pt", "trained, ")


TABLE = comparison("Longer inputs", f"Perplexities. An update has {TOKENS:,} tokens.")
MEASUREMENT = Measurement(
    *(__file__, __doc__, flags, measure, TABLE), quick={"lengths": [1024], "updates": 2}, choices=("lengths",)
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

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
from linformer_fairseq.measuring.study import Cells, Measurement, Results, markdown
from linformer_fairseq.measuring.trainings import TOKENS, longer, perplexity, schedule, train

ORIGINAL, SCRATCH = "original", "from scratch"
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
        return {"length": short, "updates": source.updates, "perplexity": found}

    ways = [(length, way) for length in options.lengths for way in WAYS]
    cells.run({ORIGINAL: original} | {f"{n}, {way}": partial(measure_way, options, short, n, way) for n, way in ways})


def measure_way(options: argparse.Namespace, short: int, length: int, way: str) -> list[float | None]:
    """Perplexity at the old and the new length: right after conversion (None from scratch), and after training."""
    folder = options.out / f"{length} {way}"

    def both(checkpoint: Path) -> list[float | None]:
        return [perplexity(options.data, checkpoint, n, folder / f"{checkpoint.stem}-{n}.log") for n in (short, length)]

    settings = schedule(options.updates, 1) | longer(length) | {"model.max_positions": length}
    start: Path | None = None
    before: list[float | None] = [None, None]
    if way != SCRATCH:
        start = folder / "start.pt"
        write(extend(read(options.checkpoint), length, method=way), start, force=True)
        before = both(start)
        settings["optimization.lr"] = [options.lr]
    train(options.data, folder, settings, folder.name, start)
    return before + both(folder / "checkpoints/checkpoint_last.pt")


def table(results: Results) -> str:
    cells, updates = results["cells"], results["settings"]["updates"]
    original = cells[ORIGINAL]
    rows = [
        [n, way, *(None if value is None else f"{value:.1f}" for value in cells[f"{n}, {way}"])]
        for n in sorted({int(name.split(",")[0]) for name in cells if name != ORIGINAL})
        for way in WAYS
        if f"{n}, {way}" in cells
    ]
    short, after = original["length"], f"after {updates} updates"
    header = ["length", "way", f"converted, at {short}", "at the length", f"{after}, at {short}", "at the length"]
    return (
        f"The checkpoint: {original['updates']} updates at {short} tokens, perplexity {original['perplexity']:.1f}. "
        f"An update has {TOKENS:,} tokens.\n\n"
    ) + markdown(header, rows, left=2)


MEASUREMENT = Measurement(
    *(__file__, __doc__, flags, measure, table), quick={"lengths": [1024], "updates": 2}, choices=("lengths",)
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

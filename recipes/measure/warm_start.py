"""A Linformer from a trained RoBERTa: perplexity right after conversion, and how soon training makes up for the rest.

    python recipes/recipe.py recipes/pretrain/tiny_n512_k128.yaml DATA --save-dir RUN -- --attention exact
    python recipes/measure/warm_start.py DATA --roberta RUN/checkpoint_last.pt --out warm-run

Every start of E and F is trained by the real fairseq-train with the settings of the recipe `tiny_n512_k128`, beside
the same Linformer from scratch. The RoBERTa is one of ours with `--attention exact`, or of fairseq's own `roberta`.
The report is of all ways that are finished.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, digest, encoder_config, read, write
from linformer_fairseq.checkpoints.names import EMBEDDING
from linformer_fairseq.checkpoints.roberta import from_roberta
from linformer_fairseq.checkpoints.sample import sample_blocks
from linformer_fairseq.checkpoints.transfer import transfer
from linformer_fairseq.checkpoints.warm_start import to_linformer
from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.plots import Panel, plot_lines
from linformer_fairseq.measuring.study import Cells, Measurement, Results, markdown
from linformer_fairseq.measuring.trainings import curve, longer, perplexity, schedule, train
from linformer_fairseq.models.config import LinformerRobertaConfig
from linformer_fairseq.plugin import register

ORIGINAL, SCRATCH = "original", "from scratch"
# Way -> start of E and F, and whether attention transfer follows.
WAYS = {
    "block means": ("block-mean", False),
    "SVD": ("svd", False),
    "block means, transfer": ("block-mean", True),
    "SVD, transfer": ("svd", True),
    "random": ("random", False),
    SCRATCH: ("block-mean", False),
}
BATCH = 8  # texts of a step of attention transfer
NEAR = 1.02  # within 2 % of the original's perplexity


def flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", type=Path, help="binarised data, such as the RoBERTa was trained on")
    add("--roberta", type=Path, required=True, help="its checkpoint, or a Hugging Face folder")
    add("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    add("--projected-length", default="128", metavar="K", help="default: %(default)s")
    add("--projection-sharing", default="layerwise", help="default: %(default)s")
    add("--updates", type=int, help="after conversion (default: 30 %% of the RoBERTa's)")
    add("--scratch-updates", type=int, help="from scratch (default: as many as the RoBERTa had)")
    add("--validations", type=int, default=15, help="in each training (default: %(default)s)")
    add("--lr", type=float, default=5e-4, help="after conversion (default: %(default)s)")
    add("--scratch-lr", type=float, default=2e-3, help="default: %(default)s")
    add("--transfer-steps", type=int, default=200, help="default: %(default)s")
    add("--sample", type=int, default=256, help="training texts for SVD and transfer (default: %(default)s)")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    register()
    exact = from_roberta(options.roberta)
    options.updates = options.updates or max(1, exact.updates * 3 // 10)
    options.scratch_updates = options.scratch_updates or max(1, exact.updates)

    def original() -> dict[str, Any]:
        file = options.out / "original/roberta.pt"
        write(exact, file, force=True)
        found = perplexity(options.data, file, encoder_config(exact).max_positions, file.with_suffix(".log"))
        return {"ppl": found, "updates": exact.updates, "sha256": digest(exact.state)}

    cells.run({ORIGINAL: original})
    if cells.finished()[ORIGINAL]["result"]["sha256"] != digest(exact.state):
        raise UsageError(f"--out {options.out} has trainings from another --roberta; choose another folder")
    cells.run({way: partial(measure_way, options, way, exact) for way in options.ways})


def measure_way(options: argparse.Namespace, way: str, exact: Checkpoint) -> dict[str, Any]:
    """Converts, validates and trains one way, or what is left of that.

    Returns:
        start (perplexity right after conversion; None from scratch), curve (updates and validation perplexities),
        seconds of the conversion, errors of attention transfer before and after.
    """
    folder = options.out / way.replace(", ", "-").replace(" ", "-").lower()
    start, n = folder / "start.pt", encoder_config(exact).max_positions
    begun = time.perf_counter()
    converted = convert(options, way, exact)
    found = {"seconds": round(time.perf_counter() - begun, 1), "errors": converted.notes[-1].get("errors", [])}
    write(converted, start, force=True)
    scratch = way == SCRATCH
    found["start"] = None if scratch else perplexity(options.data, start, n, folder / "start.log")
    settings = schedule(options.scratch_updates if scratch else options.updates, options.validations) | longer(n)
    settings["optimization.lr"] = [options.scratch_lr if scratch else options.lr]
    model = read(start).model
    known = [key for key in LinformerRobertaConfig.__dataclass_fields__ if model.get(key) is not None]
    settings["model"] = {key: model[key] for key in ("_name", *known)}
    found["curve"] = curve(train(options.data, folder, settings, way, None if scratch else start))
    return found


def convert(options: argparse.Namespace, way: str, exact: Checkpoint) -> Checkpoint:
    """The Linformer of one way."""
    init, fitted = WAYS[way]
    texts = None
    if init == "svd" or fitted:
        length, vocabulary = encoder_config(exact).max_positions, exact.state[EMBEDDING].size(0)
        blocks = sample_blocks(options.data, length, options.sample, vocabulary)
        texts = torch.split(blocks, BATCH)
    k, sharing = options.projected_length, options.projection_sharing
    found = to_linformer(exact, k, None, sharing, "linear", init, texts)
    return transfer(exact, found, texts, options.transfer_steps)[0] if fitted and texts else found


def points_of(result: dict[str, Any]) -> list[tuple[int, float]]:
    """The curve of a way, with update 0 for the perplexity right after conversion."""
    return [(update, ppl) for update, ppl in [(0, result["start"]), *result["curve"]] if ppl is not None]


def updates_until(result: dict[str, Any], target: float) -> int | None:
    """The first validation with a perplexity of at most `target`; 0 right after conversion, None for never."""
    return next((update for update, found in points_of(result) if found <= target), None)


def table(results: Results) -> str:
    """The table below a sentence about the original."""
    cells, settings = results["cells"], results["settings"]
    original, trained = cells[ORIGINAL]["ppl"], cells[ORIGINAL]["updates"]
    rows: list[list[str | None]] = []
    for way, result in ((way, cells[way]) for way in WAYS if way in cells):
        until = updates_until(result, original * NEAR)
        converted = [None, None] if result["start"] is None else [f"{result['seconds']:.0f}", f"{result['start']:.1f}"]
        reached = ["not reached", None] if until is None else [f"{until:,}", f"{until / max(1, trained):.1%}"]
        update, ppl = result["curve"][-1]
        rows.append([way, *converted, *reached, f"{ppl:.1f}", f"{update:,}"])
    header = ["start of E and F", "seconds to convert", "perplexity, converted", "updates to within 2 %"]
    header += ["of the original's", "perplexity at the end", "after updates"]
    k, sharing = settings["projected_length"], settings["projection_sharing"]
    about = f"The RoBERTa: perplexity {original:.1f} after {trained:,.0f} updates. k = {k}, {sharing} sharing.\n\n"
    return about + markdown(header, rows)


def plot(results: Results, path: Path) -> None:
    cells = results["cells"]
    lines = {way: points_of(cells[way]) for way in WAYS if way in cells}
    near = cells[ORIGINAL]["ppl"] * NEAR
    lines["2 % above the RoBERTa"] = [(0, near), (max(points[-1][0] for points in lines.values()), near)]
    styles = {way: "o-" for way in WAYS}
    plot_lines(path, "validation perplexity", [Panel("updates", lines, scale="symlog")], lambda n: styles.get(n, ":"))


QUICK = {"updates": 2, "scratch_updates": 3, "validations": 2, "transfer_steps": 3, "sample": 16}
MEASUREMENT = Measurement(
    *(__file__, __doc__, flags, measure, table, {"curves.png": plot}), quick=QUICK, choices=("ways",)
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())

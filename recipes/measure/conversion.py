"""What a converted model knows: perplexity right after conversion, and how soon training makes up for the rest.

    python recipes/recipe.py recipes/pretrain/tiny_n512_k128.yaml DATA --save-dir RUN -- --attention exact
    python recipes/measure/conversion.py DATA RUN/checkpoint_last.pt --out conversion-run

Every start of E and F of a Linformer from a RoBERTa, which is one of ours with `--attention exact`, or of fairseq's own
`roberta`, or a Hugging Face folder. All are trained by the real fairseq-train with the settings of the recipe
`tiny_n512_k128`, beside the same model from scratch. The report is of all ways that are finished.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, encoder_config, write
from linformer_fairseq.checkpoints.names import EMBEDDING
from linformer_fairseq.checkpoints.roberta import from_roberta
from linformer_fairseq.checkpoints.sample import sample_blocks
from linformer_fairseq.checkpoints.transfer import transfer
from linformer_fairseq.checkpoints.warm_start import to_linformer
from linformer_fairseq.measuring.plots import Panel, plot_lines
from linformer_fairseq.measuring.study import Cells, Measurement, Options, Results, flag, markdown, plain
from linformer_fairseq.measuring.trainings import curve, longer, perplexity, schedule, train
from linformer_fairseq.models.config import LinformerRobertaConfig
from linformer_fairseq.plugin import register
from linformer_fairseq.ranges import whole

ORIGINAL, SCRATCH = "original", "from scratch"
# Way -> start of E and F, and whether attention transfer follows.
STARTS = {
    "block means": ("block-mean", False),
    "SVD": ("svd", False),
    "block means, transfer": ("block-mean", True),
    "SVD, transfer": ("svd", True),
    "random": ("random", False),
    SCRATCH: ("block-mean", False),
}
BATCH = 8  # texts of a step of attention transfer
NEAR = 1.02  # within 2 % of the original's perplexity


def measure(options: Options, cells: Cells) -> None:
    register()
    source = from_roberta(options.checkpoint)
    options.updates = options.updates or max(1, source.updates * 3 // 10)
    options.scratch_updates = options.scratch_updates or max(1, source.updates)

    def original() -> dict[str, Any]:
        file = options.out / "original/checkpoint.pt"
        write(source, file, force=True)
        found = perplexity(options.data, file, encoder_config(source).max_positions, file.with_suffix(".log"))
        return {"ppl": found, "updates": source.updates}

    ways = {way: partial(measure_way, options, way, source) for way in STARTS if way in options.ways}
    cells.run({ORIGINAL: original} | ways)


def measure_way(options: Options, way: str, source: Checkpoint) -> dict[str, Any]:
    """Converts, validates and trains one way, or what is left of that.

    Returns:
        start (perplexity right after conversion; None from scratch), curve (updates and validation perplexities),
        seconds of the conversion, errors of attention transfer before and after.
    """
    folder = options.out / way.replace(", ", "-").replace(" ", "-").lower()
    start, scratch = folder / "start.pt", way == SCRATCH
    (init, fitted), begun, n = STARTS[way], time.perf_counter(), encoder_config(source).max_positions
    texts = None
    if init == "svd" or fitted:
        texts = torch.split(sample_blocks(options.data, n, options.sample, source.state[EMBEDDING].size(0)), BATCH)
    k, sharing = options.projected_length, options.projection_sharing
    converted = to_linformer(source, k, None, sharing, "linear", init, texts)
    if fitted and texts:
        converted, _ = transfer(source, converted, texts, options.transfer_steps)
    found = {"seconds": round(time.perf_counter() - begun, 1), "errors": converted.notes[-1].get("errors", [])}
    write(converted, start, force=True)
    found["start"] = None if scratch else perplexity(options.data, start, n, folder / "start.log")
    settings = schedule(options.scratch_updates if scratch else options.updates, options.validations) | longer(n)
    settings["optimization.lr"] = [options.scratch_lr if scratch else options.lr]
    known = ("_name", *LinformerRobertaConfig.__dataclass_fields__)
    settings["model"] = {key: converted.model[key] for key in known if converted.model.get(key) is not None}
    found["curve"] = curve(train(options.data, folder, settings, way, None if scratch else start))
    return found


def points_of(result: dict[str, Any]) -> list[tuple[int, float]]:
    """The curve of a way, with update 0 for the perplexity right after conversion."""
    return [(update, ppl) for update, ppl in [(0, result["start"]), *result["curve"]] if ppl is not None]


def updates_until(result: dict[str, Any], target: float) -> int | None:
    """The first validation with a perplexity of at most `target`; 0 right after conversion, None for never."""
    return next((update for update, found in points_of(result) if found <= target), None)


def table(results: Results) -> str:
    """The table below a sentence about the original."""
    cells, settings = dict(results["cells"]), results["settings"]
    original = cells.pop(ORIGINAL)
    ppl, trained = original["ppl"], original["updates"]
    rows: list[list[str | None]] = []
    for way, result in cells.items():
        until = updates_until(result, ppl * NEAR)
        converted = [None, None] if result["start"] is None else [f"{result['seconds']:.0f}", f"{result['start']:.1f}"]
        reached = ["not reached", None] if until is None else [f"{until:,}", f"{until / max(1, trained):.1%}"]
        update, last = result["curve"][-1]
        rows.append([way, *converted, *reached, f"{last:.1f}", f"{update:,}"])
    header = ["start of E and F", "seconds to convert", "perplexity, converted", "updates to within 2 %"]
    header += ["of the original's", "perplexity at the end", "after updates"]
    about = f"The original: perplexity {ppl:.1f} after {trained:,.0f} updates."
    about += f" k = {settings['projected_length']}, {settings['projection_sharing']} sharing."
    return f"{about}\n\n{markdown(header, rows)}"


def plot(results: Results, path: Path) -> None:
    cells = dict(results["cells"])
    near = cells.pop(ORIGINAL)["ppl"] * NEAR
    lines = {way: points_of(result) for way, result in cells.items()}
    limit = "2 % above the original"
    lines[limit] = [(0, near), (max(points[-1][0] for points in lines.values()), near)]
    panel = Panel("updates", lines, scale="symlog")
    plot_lines(path, "validation perplexity", [panel], lambda name: ":" if name == limit else "o-")


FLAGS = [
    flag("data", Path, "binarised data, such as the checkpoint was trained on"),
    flag("checkpoint", Path, "a trained RoBERTa"),
    flag("--ways", list(STARTS), choices=list(STARTS), cells=True),
    *plain(projected_length="128", projection_sharing="layerwise"),
    flag("--updates", None, "after conversion (default: 30 %% of the checkpoint's)", quick=2, type=whole()),
    flag("--scratch-updates", None, "from scratch (default: the checkpoint's)", quick=3, type=whole()),
    flag("--transfer-steps", 200, quick=3, least=0),
    flag("--sample", 256, "training texts for SVD and transfer", quick=16),
    *plain(validations=(15, 2), lr=5e-4, scratch_lr=2e-3),
]
MEASUREMENT = Measurement(__file__, __doc__, FLAGS, measure, table, {"curves.png": plot})

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())

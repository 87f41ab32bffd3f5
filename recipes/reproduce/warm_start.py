"""A Linformer from a trained RoBERTa: perplexity right after conversion, and how soon training makes up for the rest.

    python recipes/recipe.py recipes/pretrain/tiny_n512_k128.yaml DATA --save-dir RUN -- --attention exact
    python recipes/reproduce/warm_start.py DATA --roberta RUN/checkpoint_last.pt --out warm-run

Every start of E and F is trained by the real fairseq-train with the settings of the recipe `tiny_n512_k128`, beside
the same Linformer from scratch. The RoBERTa is one of ours with `--attention exact`, or of fairseq's own `roberta`.
Stopped, it goes on where it was; what is finished is left alone, and `--ways` does a part of the work. The report is
of all that is finished.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]

import torch  # noqa: E402

from linformer_fairseq.checkpoints.checkpoint import (  # noqa: E402
    EMBEDDING,
    Checkpoint,
    digest,
    encoder_config,
    read,
    write,
)
from linformer_fairseq.checkpoints.roberta import from_roberta  # noqa: E402
from linformer_fairseq.checkpoints.sample import sample_blocks  # noqa: E402
from linformer_fairseq.checkpoints.transfer import transfer  # noqa: E402
from linformer_fairseq.checkpoints.warm_start import to_linformer  # noqa: E402
from linformer_fairseq.errors import UsageError, as_one_sentence  # noqa: E402
from linformer_fairseq.io.files import replace_when_done  # noqa: E402
from linformer_fairseq.models.config import LinformerRobertaConfig  # noqa: E402
from linformer_fairseq.plugin import register  # noqa: E402
from linformer_fairseq.training.metrics import FILE, read_metrics  # noqa: E402
from linformer_fairseq.training.progress import run_logged  # noqa: E402
from linformer_fairseq.training.recipe import fairseq_train_argv  # noqa: E402
from recipes.reproduce.extend_positions import RECIPE, TOKENS_PER_UPDATE, perplexity  # noqa: E402
from recipes.reproduce.warm_start_report import Result, write_report  # noqa: E402

SCRATCH = "from scratch"
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


@dataclass
class Study:
    """What all ways have in common; kept beside the runs, which mean nothing under other settings."""

    roberta: str
    projected_length: str
    sharing: str
    updates: int
    scratch_updates: int
    validations: int
    lr: float
    scratch_lr: float
    transfer_steps: int
    sample: int
    original: dict[str, float] = field(default_factory=dict)  # its perplexity and updates


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    a = parser().parse_args(arguments)
    register()
    exact = from_roberta(a.roberta)
    study = Study(
        roberta=digest(exact.state)[:16],
        projected_length=a.projected_length,
        sharing=a.projection_sharing,
        updates=a.updates or max(1, exact.updates * 3 // 10),
        scratch_updates=a.scratch_updates or max(1, exact.updates),
        validations=a.validations,
        lr=a.lr,
        scratch_lr=a.scratch_lr,
        transfer_steps=a.transfer_steps,
        sample=a.sample,
    )
    same_settings(study, a.out)
    original = a.out / "original/roberta.pt"
    if not original.exists():
        write(exact, original)
    length = encoder_config(exact).max_positions
    study.original = {"ppl": perplexity(a.data, original, length, original.parent), "updates": exact.updates}
    for way in a.ways:
        result = measure(study, way, exact, a.data, a.out / folder_name(way))
        print(f"{way}: perplexity {result.start} after conversion, {result.curve[-1][1]} at the end", flush=True)
    files = {way: a.out / folder_name(way) / "result.json" for way in WAYS}
    finished = {way: Result(**json.loads(file.read_text())) for way, file in files.items() if file.exists()}
    print(write_report(asdict(study), finished, a.report or a.out / "report"))


def parser() -> argparse.ArgumentParser:
    """The flags."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("data", help="binarised data, such as the RoBERTa was trained on")
    top.add_argument("--roberta", type=Path, required=True, help="its checkpoint, or a Hugging Face folder")
    top.add_argument("--out", type=Path, required=True, help="folder for the runs")
    top.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    top.add_argument("--projected-length", default="128", metavar="K", help="default: 128")
    top.add_argument("--projection-sharing", default="layerwise", help="default: layerwise")
    top.add_argument("--updates", type=int, help="after conversion (default: 30 %% of the RoBERTa's)")
    top.add_argument("--scratch-updates", type=int, help="from scratch (default: as many as the RoBERTa had)")
    top.add_argument("--validations", type=int, default=15, help="in each of these runs (default: 15)")
    top.add_argument("--lr", type=float, default=5e-4, help="after conversion (default: 5e-4)")
    top.add_argument("--scratch-lr", type=float, default=2e-3, help="default: 2e-3")
    top.add_argument("--transfer-steps", type=int, default=200, help="default: 200")
    top.add_argument("--sample", type=int, default=256, help="training texts for SVD and transfer (default: 256)")
    top.add_argument("--report", type=Path, metavar="DIR", help="for results.json, table.md, curves.png")
    return top


def same_settings(study: Study, out: Path) -> None:
    """Writes the settings beside the runs, or compares them.

    Raises:
        UsageError: the folder has runs with other settings.
    """
    kept, now = out / "settings.json", asdict(study)
    if not kept.exists():
        keep(kept, now)
    before = json.loads(kept.read_text())
    other = [key for key, value in now.items() if before.get(key) != value]
    if other:
        raise UsageError(f"--out {out} has runs with another --{other[0].replace('_', '-')}; choose another folder")


def keep(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    with replace_when_done(path, force=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


def folder_name(way: str) -> str:
    """ "SVD, transfer" -> "svd-transfer"."""
    return "-".join("".join(c if c.isalnum() else " " for c in way.lower()).split())


def measure(study: Study, way: str, exact: Checkpoint, data: str, folder: Path) -> Result:
    """Converts, validates and trains one way, or what is left of that."""
    start, about, kept = folder / "start.pt", folder / "conversion.json", folder / "result.json"
    if kept.exists():
        return Result(**json.loads(kept.read_text()))
    updates = study.scratch_updates if way == SCRATCH else study.updates
    before = None
    if not (start.exists() and about.exists()):
        begun = time.perf_counter()
        converted = convert(study, way, exact, data)
        keep(about, {"seconds": round(time.perf_counter() - begun, 1), "note": converted.notes[-1]})
        write(converted, start, force=True)
    if way != SCRATCH:
        before = perplexity(data, start, encoder_config(exact).max_positions, folder)
    curve = train(study, way, data, start, folder, updates)
    conversion = json.loads(about.read_text())
    steps = study.transfer_steps if WAYS[way][1] else 0
    result = Result(before, curve, updates, conversion["seconds"], steps, conversion["note"].get("errors", []))
    keep(kept, asdict(result))
    return result


def convert(study: Study, way: str, exact: Checkpoint, data: str) -> Checkpoint:
    """The Linformer of one way."""
    init, fitted = WAYS[way]
    texts = None
    if init == "svd" or fitted:
        length, vocabulary = encoder_config(exact).max_positions, exact.state[EMBEDDING].size(0)
        blocks = sample_blocks(Path(data.split(":")[0]), length, study.sample, vocabulary)
        texts = torch.split(blocks, BATCH)
    found = to_linformer(exact, study.projected_length, None, study.sharing, "linear", init, texts)
    return transfer(exact, found, texts, study.transfer_steps)[0] if fitted and texts else found


def train(study: Study, way: str, data: str, start: Path, folder: Path, updates: int) -> list[tuple[int, float]]:
    """Trains from `start`, or from scratch; returns update and validation perplexity."""
    log, last = folder / "train.log", folder / "checkpoints/checkpoint_last.pt"
    if not (curve := read_curve(log)) or curve[-1][0] < updates:
        model = read(start).model
        n = int(model["max_positions"])
        every = max(1, updates // study.validations)
        overrides: dict[str, Any] = {
            "model": {
                key: model[key] for key in LinformerRobertaConfig.__dataclass_fields__ if model.get(key) is not None
            }
            | {"_name": model["_name"]},
            "task.tokens_per_sample": n,
            "dataset.batch_size": max(1, TOKENS_PER_UPDATE // n),
            "dataset.validate_interval_updates": every,
            "checkpoint.save_interval_updates": every,
            "optimization.max_update": updates,
            "optimization.lr": [study.scratch_lr if way == SCRATCH else study.lr],
            "lr_scheduler.total_num_update": updates,
            "lr_scheduler.warmup_updates": updates // 10,
        }
        argv = fairseq_train_argv(RECIPE, data, folder / "checkpoints", overrides)
        if way != SCRATCH and not last.exists():
            argv += ["--restore-file", str(start)]
        run_logged(argv, log, range(updates), way)
        curve = read_curve(log)
    return curve


def read_curve(log: Path) -> list[tuple[int, float]]:
    """Updates and validation perplexities of the run with this log; none before it has begun."""
    figures = log.parent / "checkpoints" / FILE
    points = read_metrics(figures) if figures.exists() else []
    return [(point["update"], point["perplexity"]) for point in points if point["split"] == "valid"]


if __name__ == "__main__":
    with as_one_sentence():
        main(sys.argv[1:])

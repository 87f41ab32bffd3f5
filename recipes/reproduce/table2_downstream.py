"""Table 2 of the paper at small scale: GLUE and IMDB with a tiny Linformer, with exact attention, and from scratch.

    python -m data_prep run recipes/reproduce/downstream.yaml --out data-run --workers 2
    python recipes/reproduce/table2_downstream.py data-run/data --glue-dir glue --imdb-dir imdb --out table2 \\
        --report docs/benchmarks/downstream

Pretrains `linformer_roberta_tiny` by the recipe `tiny_n512_k128`, and the same model with exact attention, for 4,900
updates of 4,096 tokens; fine-tunes both, and the Linformer without its pretraining, on each task with the same
settings. QNLI and IMDB are split here: where GLUE's folder has no train set of QNLI, a fifth of its dev set is scored
by a model that learns from the rest; of IMDB a tenth of the train set chooses the epoch and the test set is scored.
Stopped, it goes on; what is finished is left alone, and --models and --tasks do a part of the work.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]

import finetune_glue  # noqa: E402
import finetune_text  # noqa: E402

from linformer_fairseq.checkpoints.checkpoint import atomically, encoder_config, read  # noqa: E402
from linformer_fairseq.errors import UsageError, as_one_sentence  # noqa: E402
from linformer_fairseq.finetuning.report import Row, read_rows, write_table  # noqa: E402
from linformer_fairseq.plugin import register  # noqa: E402
from linformer_fairseq.training.metrics import read_metrics  # noqa: E402
from linformer_fairseq.training.progress import run_logged  # noqa: E402
from linformer_fairseq.training.recipe import fairseq_train_argv  # noqa: E402

RECIPE = ROOT / "recipes/pretrain/tiny_n512_k128.yaml"
UPDATES, TOKENS = 4900, 8 * 512
# Name -> the pretrained model whose architecture it has, and whether it starts from its parameters.
MODELS = {
    "tiny Linformer": ("linformer", True),
    "exact attention": ("exact", True),
    "Linformer, not pretrained": ("linformer", False),
}
PRETRAINING: dict[str, dict[str, Any]] = {"linformer": {}, "exact": {"model.attention": "exact"}}
GLUE = ("SST-2", "MRPC", "CoLA", "STS-B", "RTE")
QNLI, IMDB = "QNLI (its dev set, split)", "IMDB"
EPOCHS = {"SST-2": 1, IMDB: 2}  # others: 3
LR = 1e-3


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("data", type=Path, help="folder made by `python -m data_prep run`")
    top.add_argument("--glue-dir", type=Path, required=True, metavar="DIR", help="a folder a task")
    top.add_argument(
        "--imdb-dir", type=Path, required=True, metavar="DIR", help="train.tsv and test.tsv: label, sentence"
    )
    top.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the runs")
    top.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="NAME")
    tasks = [*GLUE, QNLI, IMDB]
    top.add_argument("--tasks", nargs="+", choices=tasks, default=tasks, metavar="TASK")
    top.add_argument("--seeds", type=int, default=3, help="default: 3")
    top.add_argument("--updates", type=int, default=UPDATES, help="of the pretraining (default: %(default)s)")
    top.add_argument("--report", type=Path, metavar="DIR", help="write the table of all finished runs here")
    a = top.parse_args(arguments)
    register()
    pretrained = {name: pretrain(name, a.data, a.out / "pretrain" / name, a.updates) for name in PRETRAINING}
    for model in a.models:
        for task in a.tasks:
            finetune(a, model, task)
    if a.report:
        report(a.out, pretrained, a.report)


def pretrain(name: str, data: Path, run: Path, updates: int) -> dict[str, Any]:
    """Pretrains, or what is left of it, and says what it took: parameters, updates, tokens, minutes, perplexity."""
    log, last, best = run / "train.log", run / "checkpoint_last.pt", run / "checkpoint_best.pt"
    overrides = {
        "optimization.max_update": updates,
        "lr_scheduler.total_num_update": updates,
        "lr_scheduler.warmup_updates": max(1, updates // 10),
        "dataset.validate_interval_updates": max(1, updates // 10),
        "checkpoint.save_interval_updates": max(1, updates // 10),
        "common.log_interval": max(1, min(10, updates // 10)),
        **PRETRAINING[name],
    }
    if not (last.exists() and read(last).updates >= updates):
        run_logged(fairseq_train_argv(RECIPE, data, run, overrides), log, range(updates), name)
    figures = read_metrics(run)
    valid = [point for point in figures if point["split"] == "valid"][-1]
    checkpoint = read(best)
    return {
        "attention": encoder_config(checkpoint).attention,
        "parameters": sum(value.numel() for value in checkpoint.state.values()),
        "updates": updates,
        "tokens": updates * TOKENS,
        "minutes": round(max(point["seconds"] for point in figures) / 60, 1),
        "perplexity": valid["perplexity"],
    }


def finetune(a: argparse.Namespace, model: str, task: str) -> None:
    """One model on one task, all seeds."""
    source, start = MODELS[model]
    words = ["--checkpoint", str(a.out / "pretrain" / source / "checkpoint_best.pt"), "--lr", str(LR)]
    words += ["--epochs", str(EPOCHS.get(task, 3)), "--seeds", str(a.seeds), "--out", str(folder(a.out, model, task))]
    words += [] if start else ["--from-scratch"]
    if task in GLUE:
        failed = finetune_glue.main([*words, "--glue-dir", str(a.glue_dir), "--tasks", task])
    elif task == QNLI:
        columns = ["--text-column", "question", "sentence", "--dev-share", "0.2"]
        failed = finetune_text.main([*words, *columns, "--train", str(a.glue_dir / "QNLI/dev.tsv"), "--name", task])
    else:
        tables = ["--train", str(a.imdb_dir / "train.tsv"), "--test", str(a.imdb_dir / "test.tsv")]
        columns = ["--text-column", "sentence", "--keep", "head-tail"]
        failed = finetune_text.main([*words, *tables, *columns, "--name", task])
    if failed:
        raise UsageError(f"{model} on {task} did not end well; the reason is above")


def folder(out: Path, model: str, task: str) -> Path:
    """Where the runs of a model on a task are."""
    return out / "".join(c if c.isalnum() else "-" for c in model) / task.split()[0]


def report(out: Path, pretrained: dict[str, Any], to: Path) -> None:
    """The table of all models, and what the pretraining took."""
    grids: dict[str, list[Row]] = {}
    for model in MODELS:
        places = [folder(out, model, task) for task in (*GLUE, QNLI, IMDB)]
        rows = [row for place in places if (place / "results.json").exists() for row in read_rows(place)]
        if rows:
            grids[model] = rows
    if not grids:
        raise UsageError(f"--out {out}: no run in it is finished")
    first = next(iter(grids))
    print(write_table(grids.pop(first), to, first, grids))
    with atomically(to / "pretraining.json", force=True) as path:
        path.write_text(json.dumps(pretrained, indent=1) + "\n")


if __name__ == "__main__":
    with as_one_sentence():
        main(sys.argv[1:])

"""Table 2 of the paper at small scale: GLUE and IMDB with a tiny Linformer, with exact attention, and from scratch.

    python -m data_prep run recipes/reproduce/downstream.yaml --out data-run --workers 2
    python recipes/reproduce/table2_downstream.py data-run/data --glue-dir glue --imdb-dir imdb --out table2 \\
        --report docs/benchmarks/downstream/results.md

Pretrains `linformer_roberta_tiny` by the recipe `tiny_n512_k128`, and the same model with exact attention, for 4,900
updates of 4,096 tokens; fine-tunes both, and the Linformer without its pretraining, on each task with the same
settings. QNLI and IMDB are split here: where GLUE's folder has no train set of QNLI, a fifth of its dev set is scored
by a model that learns from the rest; of IMDB a tenth of the train set chooses the epoch and the test set is scored.
The report is of all trainings that are finished.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from linformer_fairseq.checkpoints.checkpoint import encoder_config, read
from linformer_fairseq.commands import finetune, glue
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.report import Row, table, write_table
from linformer_fairseq.measuring.study import Cells, Measurement, Options, Results, flag, plain
from linformer_fairseq.measuring.trainings import TOKENS, curve, schedule, train
from linformer_fairseq.plugin import register

# Name -> the pretrained model whose architecture it has, and whether it starts from its parameters.
MODELS = {
    "tiny Linformer": ("linformer", True),
    "exact attention": ("exact", True),
    "Linformer, not pretrained": ("linformer", False),
}
GLUE = ("SST-2", "MRPC", "CoLA", "STS-B", "RTE")
QNLI, IMDB = "QNLI (its dev set, split)", "IMDB"
TASKS = (*GLUE, QNLI, IMDB)
EPOCHS = {"SST-2": 1, IMDB: 2}  # others: 3


def measure(options: Options, cells: Cells) -> None:
    register()
    cells.run({f"pretraining, {name}": partial(pretrain, options, name) for name in ("linformer", "exact")})
    cells.run({f"{m}, {t}": partial(finetuned, options, m, t) for m in options.models for t in options.tasks})


def pretrain(options: Options, attention: str) -> dict[str, Any]:
    """Pretrains, or what is left of it, and says what it took."""
    run, updates = options.out / "pretrain" / attention, options.updates
    changes = {"common.log_interval": max(1, min(10, updates // 10)), "model.attention": attention}
    metrics = train(options.data, run, schedule(updates) | changes, attention)
    best = read(run / "checkpoints/checkpoint_best.pt")
    return {
        "attention": encoder_config(best).attention,
        "parameters": sum(value.numel() for value in best.state.values()),
        "updates": updates,
        "tokens": updates * TOKENS,
        "minutes": round(metrics[-1]["seconds"] / 60, 1),
        "perplexity": round(curve(metrics)[-1][1], 2),
    }


def finetuned(options: Options, model: str, task: str) -> list[dict[str, Any]]:
    """Rows of results.json of one model on one task, all seeds."""
    source, start = MODELS[model]
    out = options.out / "finetune" / "".join(c if c.isalnum() else "-" for c in model) / task.split()[0]
    words = ["--checkpoint", options.out / "pretrain" / source / "checkpoints/checkpoint_best.pt", "--out", out]
    words += ["--lr", 1e-3, "--epochs", EPOCHS.get(task, 3), "--seeds", options.seeds]
    words += [] if start else ["--from-scratch"]
    if task in GLUE:
        words += ["--glue-dir", options.glue_dir, "--tasks", task]
    elif task == QNLI:
        words += ["--train", options.glue_dir / "QNLI/dev.tsv", "--text-column", "question", "sentence"]
        words += ["--dev-share", 0.2, "--name", task]
    else:
        words += ["--train", options.imdb_dir / "train.tsv", "--test", options.imdb_dir / "test.tsv"]
        words += ["--text-column", "sentence", "--keep", "head-tail", "--name", task]
    typed = [str(word) for word in words]
    if glue.main(typed) if task in GLUE else finetune.main(["train", *typed]):
        raise UsageError(f"{model} on {task} failed; the reason is above")
    rows: list[dict[str, Any]] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return rows


def grids(results: Results) -> dict[str, list[Row]]:
    """The rows of all tasks by model."""
    cells = results["cells"]
    found = {model: [Row(**row) for task in TASKS for row in cells.get(f"{model}, {task}", [])] for model in MODELS}
    if not any(found.values()):
        raise UsageError("no fine-tuning is finished yet; give more --models and --tasks")
    return {model: rows for model, rows in found.items() if rows}


def markdown(results: Results) -> str:
    return table(grids(results))


def write_more(results: Results, path: Path) -> None:
    """Beside the table: results.csv and results.png."""
    found = grids(results)
    first = next(iter(found))
    write_table(found.pop(first), path.parent, first, found)


FLAGS = [
    flag("data", Path, "folder made by `python -m data_prep run`"),
    flag("--glue-dir", Path, "a folder a task"),
    flag("--imdb-dir", Path, "train.tsv, test.tsv"),
    flag("--models", list(MODELS), choices=list(MODELS), cells=True),
    flag("--tasks", list(TASKS), choices=TASKS, cells=True),
    *plain(seeds=(3, 1), updates=(4900, 2)),
]
MEASUREMENT = Measurement(__file__, __doc__, FLAGS, measure, markdown, {"results.png": write_more})

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())

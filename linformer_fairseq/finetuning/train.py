"""One fine-tuning: a checkpoint, a table to train on, and tables to score; fairseq-train does the training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, digest, encoder_config, read, trained_settings, write
from linformer_fairseq.checkpoints.names import DEFAULT_HEAD
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import BATCH_SIZE, EPOCHS, LEARNING_RATE, WARM_UP
from linformer_fairseq.finetuning.data import write_data
from linformer_fairseq.finetuning.labels import class_weights, targets
from linformer_fairseq.finetuning.report import calibration, confusion
from linformer_fairseq.inference.engine import Engine
from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.inference.sequences import dictionary_digest, encode, tokenizer_of
from linformer_fairseq.io.files import digest as file_digest
from linformer_fairseq.io.files import write_text
from linformer_fairseq.io.records import begun, changed_settings, intact, read_record, stamps, write_record
from linformer_fairseq.paths import RECIPES
from linformer_fairseq.scores import constant as baseline
from linformer_fairseq.scores import scores_of
from linformer_fairseq.tables import Table
from linformer_fairseq.training.hardware import low_precision
from linformer_fairseq.training.progress import run_logged
from linformer_fairseq.training.recipe import fairseq_train_argv

RECIPE = RECIPES / "finetune/classification.yaml"
RESULT = "result.json"
MODEL = "model.pt"
Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One fine-tuning."""

    task: str  # its name in the table of results
    out: Path
    checkpoint: Path  # a pretrained one
    data: Path | None  # folder of its tokenizer, see `tokenizer_of`
    tables: Mapping[str, Table]  # `train`, and labelled rows to score; the epoch is chosen by the first of these
    digests: Mapping[str, str]  # see `digests_of`
    labels: Labels  # classes or score, and what is read of long rows
    metrics: tuple[str, ...]  # of `finetuning.METRICS`; epoch and setting are chosen by the first
    seed: int = 1
    lr: float = LEARNING_RATE
    batch_size: int = BATCH_SIZE
    epochs: int = EPOCHS
    warm_up: float = WARM_UP  # share of the updates
    patience: int = 0  # epochs without a better one after which training stops; 0: never
    balanced: bool = False  # every class counts the same in the loss
    pretrained: bool = True  # start from the checkpoint's parameters, not only with its architecture and tokenizer
    layer_lr_decay: float = 1.0  # see `optim.by_layer`

    def in_words(self) -> str:
        """The name of the setting in a table."""
        patience = f", patience {self.patience}" if self.patience else ""
        balanced = ", balanced" if self.balanced else ""
        decay = f", decay {self.layer_lr_decay:g} a layer" if self.layer_lr_decay != 1 else ""
        return f"lr {self.lr:g}{decay}, batch {self.batch_size}, epochs {self.epochs}{patience}{balanced}"

    def settings(self) -> dict[str, Any]:
        """Everything that the result depends on, as it is stored beside it."""
        names = ("task", "out", "checkpoint", "data", "tables", "digests", "labels")
        own = {name: value for name, value in vars(self).items() if name not in names}
        return json.loads(json.dumps({**self.digests, "labels": asdict(self.labels), **own}))  # type: ignore[no-any-return]


def digests_of(source: Checkpoint, data: Path | None, tables: Mapping[str, Table]) -> dict[str, str]:
    """Digests of what runs read, by the names of their flags."""
    files = {"checkpoint": digest(source.state), "data": dictionary_digest(data or source.data)}
    return files | {name: table.digest() for name, table in tables.items()}


def finetune(run: Run) -> Result:
    """Train or resume, score each evaluation, and write `model.pt`, `result.json`, and predictions to `NAME.tsv`.

    Of classes there are pictures of the last evaluation, see `report.py`.

    Returns the content of `result.json`: `settings`; `scores`, by evaluation and metric; `constant`, the same if the
    majority class of the training rows (or the mean of their scores) is always predicted; numbers of `rows`, of
    `broken` rows that were left out, and of rows `longer` than the model reads; `files` and `stamps` as in records.
    UsageError if the folder holds a run of other settings, or the training failed.
    """
    if (done := read_result(run)) is not None:
        return done
    source = read(run.checkpoint)
    tokenizer = tokenizer_of(source, run.data)
    begun(run.out / "finetune.json", run.settings())
    longest, folder = encoder_config(source).max_positions, run.data or source.data
    rows = {name: encode(table.texts, tokenizer, longest, run.labels.keep) for name, table in run.tables.items()}
    wanted = {name: targets(table, run.labels) for name, table in run.tables.items()}
    evaluations = [name for name in run.tables if name != "train"]
    splits = {split: (rows[name], wanted[name]) for split, name in (("train", "train"), ("valid", evaluations[0]))}
    write_data(run.out / "data", folder / "dict.txt", splits, run.labels, run.batch_size, run.seed)
    weights = class_weights(wanted["train"], len(run.labels.classes)) if run.balanced else ()
    overrides = {
        "task.num_classes": max(1, len(run.labels.classes)),
        "task.max_positions": longest,
        "criterion.regression_target": run.labels.several or not run.labels.classes,
        "criterion.several_labels": run.labels.several,
        "criterion.class_weights": ",".join(map(str, weights)),
        "criterion.metric": run.metrics[0],
        "checkpoint.best_checkpoint_metric": run.metrics[0],
    }
    run_training(run, source, RECIPE, len(rows["train"].ids), overrides)
    tuned = read(run.out / "checkpoints/checkpoint_best.pt")
    tuned.notes = [*source.notes, run.labels.note(folder)]
    tuned.task = {**tuned.task, "data": str(folder)}
    engine = Engine(tuned, DEFAULT_HEAD)
    answer = baseline(wanted["train"], len(run.labels.classes))
    scores, constant = {}, {}
    for name in evaluations:
        found = engine.rows(rows[name])
        if not np.isfinite(found).all():
            raise UsageError(f"{run.out}: what the model gives for {name} are no numbers; use a smaller --lr")
        pairs = zip(run.tables[name].labels or (), run.labels.names(found), strict=True)
        lines = [f"{label}\t{prediction}\n" for label, prediction in pairs]
        write_text(run.out / f"{name}.tsv", "".join(["label\tprediction\n", *lines]))
        scores[name] = scores_of(run.metrics, wanted[name], found)
        constant[name] = scores_of(run.metrics, wanted[name], np.tile(answer, (len(found), 1)))
    names = [MODEL, *(f"{name}.tsv" for name in evaluations)]
    if run.labels.classes and not run.labels.several:
        confusion(wanted[name], found, run.labels.classes, run.out / "confusion.png")
        calibration(wanted[name], found, run.out / "calibration.png")
        names += ["confusion.png", "calibration.png"]
    write_scored(tuned, scores, run)
    counts = {name: len(table) for name, table in run.tables.items()}
    longer = {name: sequences.longer for name, sequences in rows.items()}
    broken = len(run.tables["train"].broken)
    return finished(run, names, scores=scores, constant=constant, rows=counts, broken=broken, longer=longer)


def write_scored(tuned: Checkpoint, scores: Mapping[str, Mapping[str, float]], run: Run) -> None:
    """Write `model.pt`, with its scores."""
    tuned.scores = {f"{name} {metric}": round(v, 2) for name, found in scores.items() for metric, v in found.items()}
    write(tuned, run.out / MODEL, force=True)


def finished(run: Run, files: Sequence[str], **about: Any) -> Result:
    """Write `result.json`, by which a finished run is known, and return its content."""
    digests = {name: file_digest(run.out / name) for name in files}
    result = {"settings": run.settings(), **about, "files": digests, "stamps": stamps(run.out, files)}
    write_record(run.out / RESULT, result)
    return result


def read_result(run: Run) -> Result | None:
    """The result of a finished run; None without one, or if its files are not those written; UsageError for others'."""
    result: Result | None = read_record(run.out / RESULT)
    if result is None or not intact(run.out, result):
        return None
    if changed := changed_settings(result["settings"], run.settings()):
        what = f"the result of other settings ({', '.join(changed)} changed)"
        raise UsageError(f"{run.out} holds {what}; choose another --out")
    return result


def run_training(run: Run, source: Checkpoint, recipe: Path, rows: int, overrides: Mapping[str, Any]) -> None:
    """fairseq-train on `data` in the run's folder, of so many rows; it resumes, and a finished one is left alone."""
    updates = max(1, -(-rows // run.batch_size)) * run.epochs
    last = run.out / "checkpoints/checkpoint_last.pt"
    if last.exists() and read(last).updates >= updates:
        return
    precision = {}
    if torch.cuda.is_available():  # 16 bit, in the type that the GPU computes in. CUDA: not yet run.
        low = low_precision(torch.device("cuda"))
        precision = {"common.bf16" if low == torch.bfloat16 else "common.fp16": True}
    overrides = {
        "model": trained_settings(source),
        "criterion.layer_lr_decay": run.layer_lr_decay,
        "common.fp16_no_flatten_grads": run.layer_lr_decay != 1,
        "common.seed": run.seed,
        **precision,
        "dataset.batch_size": -(-run.batch_size // max(1, torch.cuda.device_count())),  # each trains on a share
        "optimization.lr": [run.lr],
        "optimization.max_update": updates,
        "lr_scheduler.total_num_update": updates,
        "lr_scheduler.warmup_updates": max(1, int(updates * run.warm_up)),
        "checkpoint.patience": run.patience or -1,
        **overrides,
    }
    argv = fairseq_train_argv(recipe, run.out / "data", run.out / "checkpoints", overrides)
    if run.pretrained and not last.exists():
        start = run.out / "start.pt"
        write(Checkpoint(source.state, source.model, source.task), start, force=True)
        argv += ["--restore-file", str(start)]
    # Processes of a pool leave the terminal to their parent.
    run_logged(argv, run.out / "train.log", updates if parent_process() is None else 0, run.out.name)

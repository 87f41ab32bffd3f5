"""One fine-tuning: a checkpoint, a table to train on and one to choose by; fairseq-train does the work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from progress import run_logged
from recipe import fairseq_train_argv

from finetuning.metrics import score
from finetuning.predict import Labels, Predictor, tokenizer_of
from finetuning.sequences import Sequences, encode, write_data
from finetuning.tables import Table
from linformer_fairseq.checkpoints.checkpoint import (
    Checkpoint,
    atomically,
    complete_settings,
    encoder_config,
    read,
    write,
)
from linformer_fairseq.checkpoints.safe_file import read_any
from linformer_fairseq.compat.errors import UsageError

RECIPE = Path(__file__).resolve().parents[1] / "finetune/classification.yaml"
RESULT = "result.json"
MODEL = "model.pt"


@dataclass(frozen=True)
class Run:
    """What one fine-tuning depends on.

    Attributes:
        checkpoint: a pretrained one; None to train the same architecture from nothing (`shape` says which).
        labels: classes or score, and what is kept of long rows.
        metrics: names in `metrics.py`; the first one counts.
        seed, lr, batch_size, epochs: of the training.
        overrides: settings of the recipe that differ.
    """

    checkpoint: Path
    labels: Labels
    metrics: tuple[str, ...]
    seed: int = 1
    lr: float = 1e-4
    batch_size: int = 32
    epochs: int = 3
    pretrained: bool = True
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """As they are kept beside the result; a finished run is not done again while they are the same."""
        return json.loads(json.dumps({**asdict(self), "checkpoint": str(self.checkpoint)}))  # type: ignore[no-any-return]


def targets(table: Table, labels: Labels) -> list[float]:
    """Class ids or scores of a table's labels.

    Raises:
        UsageError: a table without labels, a label that is no class, or a score that is no number; with the row.
    """
    if table.labels is None:
        raise UsageError(f"{table.path}: has no labels to train or score with")
    if labels.classes:
        ids = {name: float(i) for i, name in enumerate(labels.classes)}
        for number, name in enumerate(table.labels, start=1):
            if name not in ids:
                known = ", ".join(labels.classes[:10])
                raise UsageError(f"{table.path}: row {number} has the label {name!r}, which is none of {known}")
        return [ids[name] for name in table.labels]
    try:
        return [float(name) for name in table.labels]
    except ValueError as error:
        raise UsageError(f"{table.path}: a score is not a number ({error}); is it a classification?") from error


def finetune(run: Run, train: Table, dev: Table, data: Path | None, out: Path) -> dict[str, Any]:
    """Trains, scores every row of `dev`, and leaves `model.pt` and `result.json`; a finished run is read instead.

    Args:
        run: its settings.
        train, dev: labelled tables.
        data: folder with the tokenizer, see `tokenizer_of`.
        out: folder of the run; with another run's result in it, it is refused.

    Returns:
        The content of `result.json`: settings, metrics, rows and rows shortened.
    """
    done = out / RESULT
    if done.exists():
        result: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if result["settings"] != run.settings():
            raise UsageError(f"{out} holds the result of other settings; choose another --out")
        return result
    source = read_any(run.checkpoint)
    encoder = tokenizer_of(source, data)
    longest = encoder_config(source).max_positions
    rows = {name: encode(t.texts, encoder, longest, run.labels.keep) for name, t in (("train", train), ("valid", dev))}
    wanted = {"train": targets(train, run.labels), "valid": targets(dev, run.labels)}
    folder = data or source.data
    splits = {name: (rows[name], wanted[name]) for name in rows}
    write_data(out / "data", folder / "dict.txt", splits, run.labels.classes)
    _train(run, source, len(train), out)
    tuned = read(out / "checkpoints/checkpoint_best.pt")
    tuned.notes = [*source.notes, run.labels.note()]
    tuned.task = {**tuned.task, "data": str(folder)}
    scores = evaluate(Predictor(tuned, encoder), rows["valid"], wanted["valid"], run.metrics)
    tuned.scores = {f"{dev.path.name} {name}": round(value, 2) for name, value in scores.items()}
    write(tuned, out / MODEL, force=True)
    counts = {"train": len(train), "dev": len(dev), "broken": len(train.broken), "epochs": run.epochs}
    shortened = {name: found.shortened for name, found in rows.items()}
    result = {"settings": run.settings(), "scores": scores, "rows": counts, "shortened": shortened}
    with atomically(done, force=True) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def score_table(
    model: Path, table: Table, labels: Labels, metrics: Sequence[str], data: Path | None
) -> dict[str, float]:
    """Scores a fine-tuned checkpoint on another table, every row of it."""
    checkpoint = read(model)
    predictor = Predictor(checkpoint, tokenizer_of(checkpoint, data))
    return evaluate(predictor, predictor.sequences(table.texts), targets(table, labels), metrics)


def evaluate(
    predictor: Predictor, rows: Sequences, wanted: Sequence[float], metrics: Sequence[str]
) -> dict[str, float]:
    """Each metric over all rows."""
    logits = predictor.logits(rows)
    found = logits.argmax(1) if predictor.labels.classes else logits[:, 0]
    return {name: score(name, list(wanted), [float(value) for value in np.asarray(found)]) for name in metrics}


def _train(run: Run, source: Checkpoint, rows: int, out: Path) -> None:
    updates = max(1, -(-rows // run.batch_size)) * run.epochs
    model = {key: value for key, value in vars(complete_settings(source.model)).items() if value is not None}
    known = {key: value for key, value in model.items() if key in _SHAPE}
    overrides = {
        "model": {"_name": source.model["_name"], **known},
        "task.num_classes": max(1, len(run.labels.classes)),
        "task.max_positions": model["max_positions"],
        "criterion.regression_target": not run.labels.classes,
        "common.seed": run.seed,
        "dataset.batch_size": run.batch_size,
        "optimization.lr": [run.lr],
        "optimization.max_update": updates,
        "lr_scheduler.total_num_update": updates,
        "lr_scheduler.warmup_updates": max(1, updates * 6 // 100),
        "checkpoint.best_checkpoint_metric": "accuracy" if run.labels.classes else "loss",
        "checkpoint.maximize_best_checkpoint_metric": bool(run.labels.classes),
        **run.overrides,
    }
    argv = fairseq_train_argv(RECIPE, out / "data", out / "checkpoints", overrides)
    last = out / "checkpoints/checkpoint_last.pt"
    if last.exists() and read(last).updates >= updates:
        return  # fairseq would train one more update
    if run.pretrained and not last.exists():
        start = out / "start.pt"
        write(Checkpoint(source.state, source.model, source.task), start, force=True)
        argv += ["--restore-file", str(start)]
    run_logged(argv, out / "train.log", range(updates), out.name)


# Settings that make the network what it is; dropouts and the like are the recipe's.
_SHAPE = (
    *("projected_length", "projection", "projection_sharing", "attention", "local_conv", "max_positions"),
    *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
    *("encoder_normalize_before", "activation_fn", "untie_weights_roberta", "projection_lr_scale"),
)

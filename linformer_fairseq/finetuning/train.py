"""One fine-tuning: a checkpoint, a table to train on and one to choose by; fairseq-train does the work."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from linformer_fairseq.checkpoints.checkpoint import (
    Checkpoint,
    complete_settings,
    encoder_config,
    read,
    write,
)
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.data import write_data
from linformer_fairseq.finetuning.metrics import score
from linformer_fairseq.finetuning.predict import Labels, Predictor
from linformer_fairseq.finetuning.tables import Table
from linformer_fairseq.inference.sequences import encode
from linformer_fairseq.inference.tokenizer import tokenizer_of
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.paths import RECIPES
from linformer_fairseq.training.progress import run_logged
from linformer_fairseq.training.recipe import fairseq_train_argv

RECIPE = RECIPES / "finetune/classification.yaml"
RESULT = "result.json"
MODEL = "model.pt"
Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What one fine-tuning depends on.

    Attributes:
        checkpoint: a pretrained one.
        labels: classes or score, and what is kept of long rows.
        metrics: names in `metrics.py`; the first one counts.
        seed, lr, batch_size, epochs: of the training.
        pretrained: start from its parameters, not only with its architecture and tokenizer.
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

    def in_words(self) -> str:
        """What a table says of its setting."""
        return f"lr {self.lr:g}, batch {self.batch_size}, epochs {self.epochs}"

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


def finetune(run: Run, train: Table, evaluations: Mapping[str, Table], data: Path | None, out: Path) -> Result:
    """Trains, scores every row of each evaluation, and leaves `model.pt`, `result.json` and predictions.

    A finished run is read instead, and a run that was stopped goes on.

    Args:
        run: its settings.
        train: labelled rows to learn from.
        evaluations: name -> labelled rows to score; the epoch is chosen by the first. Predictions go to `NAME.tsv`.
        data: folder with the tokenizer, see `tokenizer_of`.
        out: folder of the run; with another run's result in it, it is refused.

    Returns:
        The content of `result.json`: `settings`; `scores`, by evaluation and metric; `constant`, the same for the
        answer that is most frequent in training (of scores, their mean), given to every row; `rows`; `longer`, rows
        that were longer than the model reads.
    """
    if (done := read_result(run, out)) is not None:
        return done
    source = read(run.checkpoint)
    encoder = tokenizer_of(source, data)
    longest = encoder_config(source).max_positions
    rows = {name: encode(t.texts, encoder, longest, run.labels.keep) for name, t in evaluations.items()}
    wanted = {name: targets(table, run.labels) for name, table in evaluations.items()}
    learnt, taught = encode(train.texts, encoder, longest, run.labels.keep), targets(train, run.labels)
    folder = data or source.data
    first = next(iter(evaluations))
    splits = {"train": (learnt, taught), "valid": (rows[first], wanted[first])}
    write_data(out / "data", folder / "dict.txt", splits, run.labels.classes, run.batch_size, run.seed)
    _train(run, source, len(learnt.ids), out)
    tuned = read(out / "checkpoints/checkpoint_best.pt")
    tuned.notes = [*source.notes, run.labels.note(folder)]
    tuned.task = {**tuned.task, "data": str(folder)}
    predictor = Predictor(tuned, encoder)
    answer = statistics.mode(taught) if run.labels.classes else statistics.mean(taught)
    scores, constant = {}, {}
    for name, table in evaluations.items():
        found = predictor.values(predictor.logits(rows[name]))
        write_predictions(table, predictor.words(found), out / f"{name}.tsv")
        scores[name] = {metric: score(metric, wanted[name], found) for metric in run.metrics}
        constant[name] = {metric: score(metric, wanted[name], [answer] * len(table)) for metric in run.metrics}
    tuned.scores = {f"{name} {metric}": round(v, 2) for name, found in scores.items() for metric, v in found.items()}
    write(tuned, out / MODEL, force=True)
    result = {
        "settings": run.settings(),
        "scores": scores,
        "constant": constant,
        "rows": {"train": len(train), **{name: len(table) for name, table in evaluations.items()}},
        "broken": len(train.broken),
        "longer": {"train": learnt.longer, **{name: found.longer for name, found in rows.items()}},
    }
    with replace_when_done(out / RESULT, force=True) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def read_result(run: Run, out: Path) -> Result | None:
    """What `finetune` has left of a finished run.

    Raises:
        UsageError: it had other settings.
    """
    done = out / RESULT
    if not done.exists():
        return None
    result: Result = json.loads(done.read_text(encoding="utf-8"))
    if result["settings"] != run.settings():
        raise UsageError(f"{out} holds the result of other settings; choose another --out")
    return result


def write_predictions(table: Table, words: Sequence[str], path: Path) -> None:
    """Writes a line for each row of a labelled table: label, prediction."""
    assert table.labels is not None
    lines = [f"{label}\t{word}\n" for label, word in zip(table.labels, words, strict=True)]
    with replace_when_done(path, force=True) as temporary:
        temporary.write_text("label\tprediction\n" + "".join(lines), encoding="utf-8")


def _train(run: Run, source: Checkpoint, sequences: int, out: Path) -> None:
    updates = max(1, -(-sequences // run.batch_size)) * run.epochs
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
        "criterion.report_mcc": run.metrics[0] == "matthews",
        "checkpoint.best_checkpoint_metric": _BEST.get(run.metrics[0], "accuracy"),
        "checkpoint.maximize_best_checkpoint_metric": bool(run.labels.classes),
        **run.overrides,
    }
    argv = fairseq_train_argv(RECIPE, out / "data", out / "checkpoints", overrides)
    last = out / "checkpoints/checkpoint_last.pt"
    if last.exists() and read(last).updates >= updates:
        return
    if run.pretrained and not last.exists():
        start = out / "start.pt"
        write(Checkpoint(source.state, source.model, source.task), start, force=True)
        argv += ["--restore-file", str(start)]
    run_logged(argv, out / "train.log", range(updates), out.name)


# Name in fairseq's log of the metric that chooses the epoch, where that is not accuracy. It has pearson as well, which
# is not a number for a model that says the same of everything.
_BEST = {"matthews": "mcc", "pearson": "loss"}

# Settings that make the network what it is; dropouts and the like are the recipe's.
_SHAPE = (
    *("projected_length", "projection", "projection_sharing", "attention", "local_conv", "max_positions"),
    *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
    *("encoder_normalize_before", "activation_fn", "untie_weights_roberta", "projection_lr_scale"),
)

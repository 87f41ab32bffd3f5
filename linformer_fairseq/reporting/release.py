"""`linformer convert release`: the folder of `to-hf` with all that others need to judge, load and check a model."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

from data_prep import funnel
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, encoder_config
from linformer_fairseq.checkpoints.huggingface import to_hf
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import digest
from linformer_fairseq.measuring.study import markdown
from linformer_fairseq.reporting.runs import CHECKPOINTS, Run
from linformer_fairseq.training.metrics import FILE

ONNX, SUMS = "model.onnx", "SHA256SUMS"
SETTINGS = (
    *("task._name", "task.mask_prob", "task.tokens_per_sample", "criterion._name", "optimizer._name"),
    *("optimization.lr", "lr_scheduler._name", "optimization.max_update", "optimization.update_freq"),
    *("dataset.batch_size", "dataset.max_tokens", "distributed_training.distributed_world_size"),
    *("common.fp16", "common.bf16", "common.amp", "common.seed"),
)
OUTPUTS = {True: "logits", False: "last_hidden_state"}  # of the graph, by whether the model is a classifier
USES = {
    True: "Classification of texts like those that it was fine-tuned on.",
    False: "Fine-tuning on tasks with texts like those that it was trained on, and their vectors.",
}
EVIDENCE = """## Intended use

{use}

## Data

{data}

## Training and evaluation

{training}

## Limits

The model reads at most {n:,} tokens of a text. What its texts teach, mistakes and prejudices included, it may repeat.
Nothing was measured but what this card has a figure of: measure it on your own data before you rely on it.

## Files

`model.onnx` gives `{output}` of `input_ids` and `attention_mask`, (batch, length), in ONNX Runtime.
`sha256sum --check SHA256SUMS` checks all files."""


def checkpoint_of(source: Path) -> Path:
    """The checkpoint of a run's folder; any other path as it is. UsageError for a run without one."""
    if not source.is_dir() or (source / "config.json").is_file():
        return source
    if found := Run(source).checkpoint:
        return found
    raise UsageError(f"{source}: has no {' or '.join(CHECKPOINTS)}; name a checkpoint")


def release(folder: Path, checkpoint: Checkpoint, data: Path, out: Path, *how: Any) -> None:
    """Write the folder `out`, atomically; the same checkpoint and files give the same bytes.

    `folder`, in which the checkpoint is, may hold what is known of its training; the rest is as for `to_hf`, to which
    `how` goes: force, head and labels.
    """
    import onnx  # noqa: F401  (which PyTorch's exporter needs: its absence is told before anything is computed)

    classes, n = bool(checkpoint.heads), encoder_config(checkpoint).max_positions
    known = {"data": _data(data), "training": _training(checkpoint, folder)}
    evidence = EVIDENCE.format(use=USES[classes], output=OUTPUTS[classes], n=n, **known)
    to_hf(checkpoint, data, out, *how, evidence=evidence, finish=partial(_finish, classes))


def _data(data: Path) -> str:
    """What each stage of the preparation has kept, if their records are where `linformer prepare run` writes them."""
    found = (funnel.read_records(folder) for folder in data.resolve().parents[:2])
    if records := next(filter(None, found), {}):
        rows = funnel.rows({name: record["result"] for name, record in records.items()})
        return markdown(funnel.COLUMNS, rows, left=2).rstrip()
    return "Not known: its preparation has left no records beside the training data."


def _training(checkpoint: Checkpoint, folder: Path) -> str:
    """The scores of the checkpoint, and the best validation and the settings of its run, as far as they are known."""
    rows: list[list[object]] = [[name, f"{value:.4g}"] for name, value in checkpoint.scores.items()]
    if (folder / FILE).is_file():
        run = Run(folder)
        if run.best:
            figures = ("update", "tokens", "loss", "perplexity")
            rows += [[f"best validation: {key}", run.best.get(key)] for key in figures]
        rows += [[name, run.settings[name]] for name in SETTINGS if run.settings.get(name) not in (None, "None")]
    if not rows:
        return "Not known: no metrics of a run were beside the checkpoint."
    return markdown(["", "value"], rows).rstrip()


def _finish(classes: bool, folder: Path) -> None:
    """Add the graph and the checksums."""
    import torch

    from linformer_fairseq.hf.modeling_linformer import LinformerForSequenceClassification, LinformerModel

    model: Any = (LinformerForSequenceClassification if classes else LinformerModel).from_pretrained(folder)
    ids, axes = torch.full((2, 16), 5), {0: "batch", 1: "length"}
    dynamic = {"input_ids": axes, "attention_mask": axes, OUTPUTS[classes]: {0: "batch"} if classes else axes}
    names: dict[str, Any] = {"input_names": [*dynamic][:2], "output_names": [*dynamic][2:], "dynamic_axes": dynamic}
    with warnings.catch_warnings(action="ignore"):  # of an exporter that is deprecated, and the one that always works
        torch.onnx.export(model.float().eval(), (ids, torch.ones_like(ids)), folder / ONNX, dynamo=False, **names)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    sums = "".join(f"{digest(folder / name)}  {name}\n" for name in files)
    (folder / SUMS).write_text(sums, encoding="utf-8")

"""What a checkpoint is: for people, for programs, and for the README.md of an exported folder."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, digest, encoder_config
from linformer_fairseq.checkpoints.names import EMBEDDING

_ONLY_LINFORMER = ("projected_length", "projection", "sharing")
_TO_FILL_IN = """## Data, evaluation, limits

To be filled in: which text it was trained on, what was measured on which data, and what it must not be used for."""
_TEMPLATE = Path(__file__).with_name("model_card.md")


def describe(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    """Its architecture, sizes, training and identity; plain values, in the order in which they are shown."""
    config = encoder_config(checkpoint)
    lengths = config.lengths
    shown = vars(config) | {"projected_length": lengths[0] if len(set(lengths)) == 1 else ",".join(map(str, lengths))}
    about: dict[str, Any] = {"file": str(path), "architecture": checkpoint.model.get("_name")}
    for row in fields(config):
        if row.metadata["label"] and (config.attention == "linformer" or row.name not in _ONLY_LINFORMER):
            value = shown[row.name]
            about[row.metadata["label"]] = {False: "no", True: "yes"}[value] if isinstance(value, bool) else value
    tensors = {value.data_ptr(): value for key, value in checkpoint.state.items() if not key.endswith("lr_scale")}
    data = str(checkpoint.task.get("data") or "")
    return about | {
        "parameters": sum(value.numel() for value in tensors.values()),
        "type": str(checkpoint.state[EMBEDDING].dtype).removeprefix("torch."),
        "dictionary": f"{config.vocab_size} symbols{f', of {data}' if data else ''}",
        "task": checkpoint.task.get("_name"),
        "updates": checkpoint.updates,
        "scores": ", ".join(f"{name} {value:.2f}" for name, value in checkpoint.scores.items()) or "none",
        "classification heads": ", ".join(checkpoint.heads) or "none",
        "conversions": ", ".join(str(note.get("conversion")) for note in checkpoint.notes) or "none",
        "digest": digest(checkpoint.state),
    }


def model_card(
    name: str,
    about: Mapping[str, Any],
    length: int,
    labels: Sequence[str] | None,
    mask: str,
    sentences: bool = False,
    evidence: str | None = None,
) -> str:
    """README.md of the folder `name`: what the model is, how to use it, and what its maker still has to fill in.

    `about` comes from `describe`; `length` is the longest input; `labels` are the classes of its head, if it has one;
    `mask` is its tokenizer's symbol; `sentences` says whether it came from sentence-transformers; `evidence` are the
    sections on data, evaluation and limits, if they are known.
    """
    rows = {key: f"{value:,}" if isinstance(value, int) else str(value) for key, value in about.items()}
    task, pipeline, sentence = "fill-mask", "fill", f"A sentence with a {mask} in it."
    if sentences:  # the masked-LM head of such a model is seldom trained
        task, pipeline, sentence = "feature-extraction", "extract", "A sentence."
    if labels:
        task, pipeline, sentence = "text-classification", "classify", "A sentence."
        rows["classes"] = ", ".join(labels)
    return _TEMPLATE.read_text(encoding="utf-8").format(
        name=name,
        table="\n".join(f"| {key} | {value} |" for key, value in rows.items() if key not in ("file", "digest")),
        task=task,
        pipeline=pipeline,
        sentence=sentence,
        length=f"{length:,}",
        evidence=evidence or _TO_FILL_IN,
    )

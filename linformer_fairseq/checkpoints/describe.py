"""What a checkpoint is, for people and programs."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from linformer_fairseq.checkpoints.checkpoint import EMBEDDING, Checkpoint, digest, encoder_config

_ONLY_LINFORMER = ("projected_length", "projection", "sharing")


def describe(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    """Its architecture, sizes, training and identity; plain values, in the order in which they are shown.

    Raises:
        UsageError: not a checkpoint of this project's model.
    """
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

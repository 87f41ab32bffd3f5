"""What a checkpoint is, for people and programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linformer_fairseq.checkpoints.checkpoint import EMBEDDING, Checkpoint, digest, encoder_config


def describe(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    """Its architecture, sizes, training and identity; plain values, in the order in which they are shown.

    Raises:
        UsageError: not a checkpoint of this project's model.
    """
    config = encoder_config(checkpoint)
    tensors = {value.data_ptr(): value for key, value in checkpoint.state.items() if not key.endswith("lr_scale")}
    data = str(checkpoint.task.get("data") or "")
    about: dict[str, Any] = {
        "file": str(path),
        "architecture": checkpoint.model.get("_name"),
        "attention": config.attention,
        "longest input n": config.max_positions,
    }
    if config.attention == "linformer":
        lengths = config.lengths
        about["projected length k"] = lengths[0] if len(set(lengths)) == 1 else ",".join(map(str, lengths))
        about["projection"] = config.projection
        about["sharing"] = config.sharing
    about |= {
        "layers": config.num_layers,
        "channels": f"{config.embed_dim}, {config.ffn_dim} in the feed-forward sublayer",
        "heads": config.num_heads,
        "layer norm": "before each sublayer" if config.normalize_before else "after each sublayer",
        "local convolution": config.local_conv or "none",
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
    return about

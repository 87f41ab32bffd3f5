"""The tokenizer that belongs to a checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path

from data_prep import encoders
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, encoder_config
from linformer_fairseq.errors import UsageError


def tokenizer_of(checkpoint: Checkpoint, data: Path | None) -> encoders.Encoder:
    """The tokenizer that the checkpoint was trained with.

    Args:
        checkpoint: any of this project.
        data: folder with dict.txt and tokenizer; by default that of the training.

    Raises:
        UsageError: no tokenizer there, or one of another size, or not the one that it was fine-tuned with.
    """
    folder = data or checkpoint.data
    try:
        encoder = encoders.load(folder)
    except UsageError as error:
        raise UsageError(f"{error}; --data names the folder that the checkpoint was pretrained on") from error
    size = encoder_config(checkpoint).vocab_size
    if encoder.symbols != size:
        raise UsageError(
            f"{folder}: its dictionary has {encoder.symbols} symbols and the checkpoint {size}; --data must name the "
            "folder that the checkpoint was pretrained on"
        )
    for note in checkpoint.notes:
        if note.get("dictionary", digest := dictionary_digest(folder)) != digest:
            raise UsageError(f"{folder}: dict.txt is not the one of the fine-tuning; --data must name its folder")
    return encoder


def dictionary_digest(tokenizer: Path) -> str:
    """A hash of a tokenizer folder's dictionary."""
    return hashlib.sha256((tokenizer / "dict.txt").read_bytes()).hexdigest()

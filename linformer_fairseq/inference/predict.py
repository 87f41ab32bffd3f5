"""What a fine-tuned checkpoint predicts, for every row and independent of the batches."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import encoders
from linformer_fairseq.checkpoints.checkpoint import FINE_TUNED, Checkpoint, encoder_config
from linformer_fairseq.checkpoints.names import DEFAULT_HEAD
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.engine import Engine, Values
from linformer_fairseq.inference.sequences import dictionary_digest, encode
from linformer_fairseq.tables import SEPARATOR


@dataclass(frozen=True)
class Labels:
    """What a fine-tuned checkpoint predicts; stored in its notes."""

    classes: tuple[str, ...]  # names in the order of their ids; empty for a score
    columns: int  # texts in a row, 1 or 2
    keep: str = "head"  # what is read of rows that are too long, see `sequences.encode`
    several: bool = False  # a row has any number of the classes

    def note(self, tokenizer: Path) -> dict[str, Any]:
        """As an entry of `Checkpoint.notes`, with the digest of the tokenizer's dictionary."""
        settings = {**asdict(self), "classes": list(self.classes)}
        return {"conversion": FINE_TUNED, **settings, "dictionary": dictionary_digest(tokenizer)}

    def names(self, logits: Values) -> list[str] | list[float]:
        """The class of each row, of (rows, classes) logits, its classes with `|` between them, or its score."""
        if not self.classes:
            return [float(value) for value in logits[:, 0]]
        if self.several:
            return [SEPARATOR.join(self.classes[i] for i in np.flatnonzero(row > 0)) for row in logits]
        return [self.classes[i] for i in logits.argmax(1)]


def labels_of(checkpoint: Checkpoint, columns: int | None = None) -> Labels:
    """What a checkpoint predicts; UsageError if it was not fine-tuned, or for another number of texts in a row."""
    note = checkpoint.note(FINE_TUNED)
    if not note:
        raise UsageError("--checkpoint was not fine-tuned and predicts nothing; fine-tune it with `linformer finetune`")
    if None not in (columns, note["columns"]) and columns != note["columns"]:
        raise UsageError(f"--text-column: the checkpoint reads {note['columns']} texts a row, not {columns}")
    return Labels(tuple(note["classes"]), note["columns"] or columns or 1, note["keep"], note.get("several", False))


def predict(
    checkpoint: Checkpoint, encoder: encoders.Encoder, texts: Sequence[tuple[str, ...]]
) -> list[str] | list[float]:
    """Names of classes, or scores, for rows of texts; UsageError as `labels_of`."""
    labels = labels_of(checkpoint, len(texts[0]))
    rows = encode(texts, encoder, encoder_config(checkpoint).max_positions, labels.keep)
    return labels.names(Engine(checkpoint, DEFAULT_HEAD).rows(rows))

"""What a fine-tuned checkpoint predicts, for every row and independent of the batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep import encoders
from linformer_fairseq.checkpoints.checkpoint import FINE_TUNED, Checkpoint, encoder_config
from linformer_fairseq.checkpoints.names import DEFAULT_HEAD
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.engine import Engine, Values
from linformer_fairseq.inference.sequences import dictionary_digest, encode


@dataclass(frozen=True)
class Labels:
    """What a fine-tuned checkpoint predicts; stored in its notes."""

    classes: tuple[str, ...]  # names in the order of their ids; empty for a score
    columns: int  # texts in a row, 1 or 2
    keep: str = "head"  # what is read of rows that are too long, see `sequences.encode`

    def note(self, tokenizer: Path) -> dict[str, Any]:
        """As an entry of `Checkpoint.notes`, with the digest of the tokenizer's dictionary."""
        settings = {**asdict(self), "classes": list(self.classes)}
        return {"conversion": FINE_TUNED, **settings, "dictionary": dictionary_digest(tokenizer)}

    def values(self, logits: Values) -> list[float]:
        """The class id of each row, or its score, of (rows, classes) logits or (rows, 1) scores."""
        return [float(value) for value in (logits.argmax(1) if self.classes else logits[:, 0])]

    def names(self, values: list[float]) -> list[str] | list[float]:
        """The names of class ids; scores as they are."""
        return [self.classes[int(value)] for value in values] if self.classes else values


def labels_of(checkpoint: Checkpoint, columns: int | None = None) -> Labels:
    """What a checkpoint predicts; UsageError if it was not fine-tuned, or for another number of texts in a row."""
    for note in reversed(checkpoint.notes):
        if note.get("conversion") == FINE_TUNED:
            if None not in (columns, note["columns"]) and columns != note["columns"]:
                raise UsageError(f"--text-column: the checkpoint reads {note['columns']} texts a row, not {columns}")
            return Labels(tuple(note["classes"]), note["columns"] or columns or 1, note["keep"])
    raise UsageError("--checkpoint was not fine-tuned and predicts nothing; fine-tune it with `linformer finetune`")


def predict(
    checkpoint: Checkpoint, encoder: encoders.Encoder, texts: Sequence[tuple[str, ...]]
) -> list[str] | list[float]:
    """Names of classes, or scores, for rows of texts; UsageError as `labels_of`."""
    labels = labels_of(checkpoint, len(texts[0]))
    rows = encode(texts, encoder, encoder_config(checkpoint).max_positions, labels.keep)
    return labels.names(labels.values(Engine(checkpoint, DEFAULT_HEAD).rows(rows)))

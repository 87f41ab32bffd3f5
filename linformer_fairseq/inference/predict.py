"""Predictions of a fine-tuned checkpoint, for every row and independent of the batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep import encoders
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, encoder_config
from linformer_fairseq.checkpoints.names import DEFAULT_HEAD
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.engine import Compute, Engine, Values, of_rows
from linformer_fairseq.inference.sequences import Sequences, dictionary_digest, encode

NOTE = "fine-tuned"


@dataclass(frozen=True)
class Labels:
    """What a fine-tuned checkpoint predicts; stored in its notes."""

    classes: tuple[str, ...]  # names in the order of their ids; empty for a score
    columns: int  # texts in a row, 1 or 2
    keep: str = "head"  # what is read of rows that are too long, see `sequences.encode`

    def note(self, tokenizer: Path) -> dict[str, Any]:
        """As an entry of `Checkpoint.notes`, with the digest of the tokenizer's dictionary."""
        settings = {**asdict(self), "classes": list(self.classes)}
        return {"conversion": NOTE, **settings, "dictionary": dictionary_digest(tokenizer)}

    def names(self, values: list[float]) -> list[str] | list[float]:
        """The names of class ids; scores as they are."""
        return [self.classes[int(value)] for value in values] if self.classes else values


def labels_of(checkpoint: Checkpoint, columns: int | None = None) -> Labels:
    """What a checkpoint predicts.

    Raises:
        UsageError: it was not fine-tuned, or reads another number of texts in a row than `columns`.
    """
    for note in reversed(checkpoint.notes):
        if note.get("conversion") == NOTE:
            if columns not in (None, note["columns"]):
                raise UsageError(f"--text-column: the checkpoint reads {note['columns']} texts a row, not {columns}")
            return Labels(tuple(note["classes"]), note["columns"], note["keep"])
    raise UsageError("the checkpoint was not fine-tuned; fine-tune it with `linformer finetune`")


class Predictor:
    """A fine-tuned checkpoint with its tokenizer."""

    def __init__(self, checkpoint: Checkpoint, encoder: encoders.Encoder, compute: Compute | None = None) -> None:
        self.labels = labels_of(checkpoint)
        self.encoder = encoder
        self._longest = encoder_config(checkpoint).max_positions
        self._engine = Engine(checkpoint, DEFAULT_HEAD, compute)

    def sequences(self, texts: Sequence[tuple[str, ...]]) -> Sequences:
        """The model's input for rows of texts."""
        return encode(texts, self.encoder, self._longest, self.labels.keep)

    def logits(self, rows: Sequences) -> Values:
        """(rows, classes) logits, or (rows, 1) scores; of a row with several chunks, their mean."""
        return of_rows(self._engine.run(rows.ids), rows.owners)

    def values(self, rows: Sequences) -> list[float]:
        """The class id of each row, or its score."""
        logits = self.logits(rows)
        return [float(value) for value in (logits.argmax(1) if self.labels.classes else logits[:, 0])]

    def predict(self, texts: Sequence[tuple[str, ...]]) -> list[str] | list[float]:
        """Names of classes, or scores."""
        return self.labels.names(self.values(self.sequences(texts)))

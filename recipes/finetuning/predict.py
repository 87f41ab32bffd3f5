"""Scores of a fine-tuned checkpoint for texts, on every row and independent of batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils.rnn import pad_sequence

from data_prep import encoders
from data_prep.stage import DataPrepError
from finetuning.sequences import Sequences, encode
from linformer_fairseq.checkpoints.checkpoint import PAD, Checkpoint, build, encoder_config
from linformer_fairseq.compat.errors import UsageError

HEAD = "sentence_classification_head"
NOTE = "fine-tuned"
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Labels:
    """What a fine-tuned checkpoint predicts; kept in its notes.

    Attributes:
        classes: names in the order of their ids; empty for a score.
        columns: texts in a row, 1 or 2.
        keep: of rows that are too long, see `sequences.encode`.
    """

    classes: tuple[str, ...]
    columns: int
    keep: str = "head"

    def note(self, tokenizer: Path) -> dict[str, Any]:
        """As an entry of `Checkpoint.notes`, with the digest of the tokenizer's dictionary."""
        kept = {"classes": list(self.classes), "columns": self.columns, "keep": self.keep}
        return {"conversion": NOTE, **kept, "dictionary": _digest(tokenizer)}


def labels_of(checkpoint: Checkpoint) -> Labels:
    """What a checkpoint says of itself.

    Raises:
        UsageError: it was not fine-tuned here.
    """
    for note in reversed(checkpoint.notes):
        if note.get("conversion") == NOTE:
            return Labels(tuple(note["classes"]), note["columns"], note["keep"])
    raise UsageError("the checkpoint was not fine-tuned; make one with recipes/finetune_text.py")


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
    except DataPrepError as error:
        raise UsageError(f"{error}; --data names the folder that the checkpoint was pretrained on") from error
    size = encoder_config(checkpoint).vocab_size
    if encoder.symbols != size:
        raise UsageError(
            f"{folder}: its dictionary has {encoder.symbols} symbols and the checkpoint {size}; --data must name the "
            "folder that the checkpoint was pretrained on"
        )
    for note in checkpoint.notes:
        if note.get("dictionary", digest := _digest(folder)) != digest:
            raise UsageError(f"{folder}: dict.txt is not the one of the fine-tuning; --data must name its folder")
    return encoder


def _digest(tokenizer: Path) -> str:
    return hashlib.sha256((tokenizer / "dict.txt").read_bytes()).hexdigest()


class Predictor:
    """A fine-tuned checkpoint with its tokenizer.

    Args:
        checkpoint: with a head for its labels.
        encoder: of its tokenizer.
        labels: what it predicts; by default what the checkpoint says.
    """

    def __init__(self, checkpoint: Checkpoint, encoder: encoders.Encoder, labels: Labels | None = None) -> None:
        self.labels = labels or labels_of(checkpoint)
        self.encoder = encoder
        self.longest = encoder_config(checkpoint).max_positions
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = build(checkpoint).to(self._device)

    def sequences(self, texts: Sequence[tuple[str, ...]]) -> Sequences:
        """The model's input for rows of texts."""
        return encode(texts, self.encoder, self.longest, self.labels.keep)

    @torch.inference_mode()
    def logits(self, rows: Sequences, batch_tokens: int = 16384) -> Logits:
        """(rows, classes), or (rows, 1) of scores, in the order of the rows; of several chunks of a row, the mean.

        Args:
            rows: made by `sequences`.
            batch_tokens: most tokens in one batch, pads counted.
        """
        order = sorted(range(len(rows.ids)), key=lambda i: len(rows.ids[i]))
        found: list[Logits | None] = [None] * len(order)
        batch: list[int] = []
        for position, row in enumerate(order):
            batch.append(row)
            more = order[position + 1 : position + 2]
            if not more or (len(batch) + 1) * len(rows.ids[more[0]]) > batch_tokens:
                tokens = pad_sequence([torch.from_numpy(rows.ids[i]) for i in batch], True, PAD).to(self._device)
                out, _ = self._model(tokens, features_only=True, classification_head_name=HEAD)
                for i, values in zip(batch, out.float().cpu().numpy(), strict=True):
                    found[i] = values
                batch = []
        answers: Logits = np.stack([values for values in found if values is not None])
        starts = np.flatnonzero(np.diff(rows.owners, prepend=-1))
        chunks = np.diff(starts, append=len(answers)).astype(np.float32)
        sums: Logits = np.add.reduceat(answers, starts)
        return np.divide(sums, chunks[:, None], dtype=np.float32)

    def values(self, logits: Logits) -> list[float]:
        """The class id of each row, or its score."""
        return [float(value) for value in (logits.argmax(1) if self.labels.classes else logits[:, 0])]

    def words(self, values: Sequence[float]) -> list[str]:
        """The names of classes, or scores as text."""
        return [self.labels.classes[int(value)] if self.labels.classes else str(value) for value in values]

    def predict(self, texts: Sequence[tuple[str, ...]]) -> list[str] | list[float]:
        """Names of classes, or scores."""
        values = self.values(self.logits(self.sequences(texts)))
        return self.words(values) if self.labels.classes else values

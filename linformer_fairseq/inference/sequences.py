"""Texts to the model's input, <s> A </s> or <s> A </s></s> B </s>, by the tokenizer of a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep import encoders
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, encoder_config
from linformer_fairseq.errors import UsageError

BOS, EOS = 0, 2
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """Tokenised rows."""

    ids: list[Ids]  # of each sequence, special symbols included
    owners: Ids  # (sequences,) the row that each belongs to, ascending; with `chunks`, a row may have several
    longer: int  # number of rows that are longer than the model reads


def tokenizer_of(checkpoint: Checkpoint, data: Path | None) -> encoders.Encoder:
    """The tokenizer in `data`, by default the one that the checkpoint was trained with.

    Raises:
        UsageError: no tokenizer there, or not the checkpoint's.
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
    """SHA-256 of a tokenizer folder's dictionary."""
    return hashlib.sha256((tokenizer / "dict.txt").read_bytes()).hexdigest()


def encode(texts: Sequence[tuple[str, ...]], encoder: encoders.Encoder, longest: int, keep: str = "head") -> Sequences:
    """Tokenise rows of one or two texts.

    Args:
        texts: of each row, all of the same number.
        encoder: the tokenizer.
        longest: number of tokens that the model reads. Of two texts, the longer one is shortened first.
        keep: what is read of longer rows: `head`; `head-tail`, a quarter from the beginning and the rest from the end
            (Sun et al. 2019 take 128 and 382 of 510 tokens); or `chunks`, all of it, as sequences of equal length.

    Raises:
        UsageError: chunks of two texts.
    """
    columns = len(texts[0]) if texts else 0
    if keep == "chunks" and columns > 1:
        raise UsageError("--keep chunks is for one text a row; with two, choose head or head-tail")
    tokens = [_tokenize([row[column] for row in texts], encoder) for column in range(columns)]
    room = longest - 2 * columns
    ids: list[Ids] = []
    owners: list[int] = []
    longer = 0
    for number, row in enumerate(zip(*tokens, strict=True)):
        lengths = fit([len(text) for text in row], room)
        too_long = sum(lengths) < sum(map(len, row))
        longer += too_long
        if too_long and keep == "chunks":
            chunks = [[chunk] for chunk in np.array_split(row[0], -(-len(row[0]) // room))]
        else:
            chunks = [[_shorten(text, length, keep) for text, length in zip(row, lengths, strict=True)]]
        ids += [_with_special_symbols(chunk) for chunk in chunks]
        owners += [number] * len(chunks)
    return Sequences(ids, np.array(owners, dtype=np.int64), longer)


def _tokenize(texts: list[str], encoder: encoders.Encoder) -> list[Ids]:
    ids, lengths = encoder.encode(texts)
    return np.split(ids.astype(np.int64), np.cumsum(lengths)[:-1])


def _with_special_symbols(texts: Sequence[Ids]) -> Ids:
    pieces = [([BOS if number == 0 else EOS], text, [EOS]) for number, text in enumerate(texts)]
    return np.concatenate([piece for three in pieces for piece in three]).astype(np.int64)


def fit(lengths: Sequence[int], room: int) -> list[int]:
    """The lengths of one or two texts, of which the longer one is shortened first, so that both fit into `room`."""
    half, shorter = room // 2, min(lengths)
    if sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    if shorter > half:
        return [half, room - half]
    return [shorter if length == shorter else room - shorter for length in lengths]


def _shorten(ids: Ids, length: int, keep: str) -> Ids:
    head = length // 4 if keep == "head-tail" and length < len(ids) else length
    return np.concatenate([ids[:head], ids[len(ids) - (length - head) :]])

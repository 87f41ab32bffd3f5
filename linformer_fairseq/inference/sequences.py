"""From texts to the model's input, <s> A </s> or <s> A </s></s> B </s>."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.encoders import Encoder
from linformer_fairseq.errors import UsageError

BOS, EOS = 0, 2
KEEPS = ("head", "head-tail", "chunks")
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """Encoded rows.

    Attributes:
        ids: of each sequence, special symbols included.
        owners: (sequences,) the row that each belongs to, ascending; several of one row with `chunks`.
        longer: rows that were longer than the model reads.
    """

    ids: list[Ids]
    owners: Ids
    longer: int

    def of_rows(self, values: Sequence[float]) -> list[float]:
        """A value of each row, for each sequence."""
        return [values[row] for row in self.owners]


def encode(texts: Sequence[tuple[str, ...]], encoder: Encoder, longest: int, keep: str = "head") -> Sequences:
    """Encodes rows of one or two texts.

    Args:
        texts: of the rows, all of them with as many texts.
        encoder: of the checkpoint's tokenizer.
        longest: tokens that the model reads; of a longer row `keep` says what stays. Of two texts the longer one is
            shortened first.
        keep: `head`; `head-tail`, a quarter from the beginning and the rest from the end (Sun et al. 2019, who took
            128 and 382 of 510 tokens); or `chunks`, all of it, as sequences of equal length.

    Raises:
        UsageError: chunks of two texts.
    """
    columns = len(texts[0])
    if keep == "chunks" and columns > 1:
        raise UsageError("--keep chunks is for one text a row; with two, choose head or head-tail")
    parts = [_parts([row[column] for row in texts], encoder) for column in range(columns)]
    room = longest - 2 * columns
    ids: list[Ids] = []
    owners: list[int] = []
    longer = 0
    for number, row in enumerate(zip(*parts, strict=True)):
        lengths = fit([len(part) for part in row], room)
        too_long = any(length < len(part) for length, part in zip(lengths, row, strict=True))
        longer += too_long
        if too_long and keep == "chunks":
            chunks = [[piece] for piece in np.array_split(row[0], -(-len(row[0]) // room))]
        else:
            chunks = [[_kept(part, length, keep) for part, length in zip(row, lengths, strict=True)]]
        ids += [_sequence(chunk) for chunk in chunks]
        owners += [number] * len(chunks)
    return Sequences(ids, np.array(owners, dtype=np.int64), longer)


def _sequence(parts: Sequence[Ids]) -> Ids:
    pieces: list[Ids] = []
    for number, part in enumerate(parts):
        first = np.array([BOS if number == 0 else EOS], dtype=np.int64)
        pieces += [first, part, np.array([EOS], dtype=np.int64)]
    return np.concatenate(pieces)


def fit(lengths: Sequence[int], room: int) -> list[int]:
    """The lengths after the longest was shortened, again and again, until all fit into `room` together."""
    cut = list(lengths)
    while (excess := sum(cut) - room) > 0:
        longest = max(range(len(cut)), key=lambda i: cut[i])
        others = [cut[i] for i in range(len(cut)) if i != longest]
        # Down to the next longest at once, or one token where they are equal.
        step = max(1, cut[longest] - max(others, default=0))
        cut[longest] -= min(excess, step)
    return cut


def _kept(ids: Ids, length: int, keep: str) -> Ids:
    if length >= len(ids):
        return ids
    head = length if keep == "head" else length // 4
    return np.concatenate([ids[:head], ids[len(ids) - (length - head) :]]) if length > head else ids[:head]


def _parts(texts: list[str], encoder: Encoder) -> list[Ids]:
    ids, lengths = encoder.encode(texts)
    return np.split(ids.astype(np.int64), np.cumsum(lengths)[:-1])

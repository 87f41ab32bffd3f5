"""From texts to the model's input, <s> A </s> or <s> A </s></s> B </s>, and to the folder that fairseq trains on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from data_prep.encoders import Encoder

BOS, EOS = 0, 2
KEEPS = ("head", "head-tail")
_SPECIAL = 4  # symbols before the first class in fairseq's dictionary of labels
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """Encoded rows.

    Attributes:
        ids: of each row, special symbols included.
        shortened: rows that were longer than the model reads.
    """

    ids: list[Ids]
    shortened: int


def encode(texts: Sequence[tuple[str, ...]], encoder: Encoder, longest: int, keep: str = "head") -> Sequences:
    """Encodes rows of one or two texts.

    Args:
        texts: of the rows, all of them with as many texts.
        encoder: of the checkpoint's tokenizer.
        longest: tokens that the model reads; of a longer row `keep` says what stays. Of two texts the longer one is
            shortened first.
        keep: `head`, or `head-tail`, a quarter from the beginning and the rest from the end (Sun et al. 2019, who took
            128 and 382 of 510 tokens).
    """
    parts = [_parts([row[column] for row in texts], encoder) for column in range(len(texts[0]))]
    rows: list[Ids] = []
    shortened = 0
    for row in zip(*parts, strict=True):
        room = longest - 2 * len(row)
        lengths = fit([len(part) for part in row], room)
        shortened += any(length < len(part) for length, part in zip(lengths, row, strict=True))
        pieces: list[Ids] = []
        for number, (part, length) in enumerate(zip(row, lengths, strict=True)):
            first = np.array([BOS if number == 0 else EOS], dtype=np.int64)
            pieces += [first, _kept(part, length, keep), np.array([EOS], dtype=np.int64)]
        rows.append(np.concatenate(pieces))
    return Sequences(rows, shortened)


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


def write_data(
    folder: Path,
    dictionary: Path,
    splits: Mapping[str, tuple[Sequences, Sequence[float]]],
    classes: Sequence[str],
) -> None:
    """Writes what fairseq's task `sentence_prediction` reads.

    Args:
        folder: to be made.
        dictionary: dict.txt of the tokenizer.
        splits: rows and targets of train and valid; a target is a class id, or a score where there are no classes.
        classes: names of the classes; without any, it is a regression.
    """
    for name in ("input0", "label"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(dictionary, folder / "input0/dict.txt")
    (folder / "label/dict.txt").write_text("".join(f"class{i} 1\n" for i in range(len(classes))))
    for split, (rows, targets) in splits.items():
        _write_items(folder / "input0" / split, rows.ids)
        if classes:
            _write_items(folder / "label" / split, [np.array([int(t) + _SPECIAL, EOS]) for t in targets])
        else:
            (folder / f"label/{split}.label").write_text("".join(f"{target}\n" for target in targets))


def _write_items(prefix: Path, items: Sequence[Ids]) -> None:
    builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32)
    for item in items:
        builder.add_item(torch.from_numpy(item))
    builder.finalize(f"{prefix}.idx")

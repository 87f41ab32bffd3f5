"""The folder that fairseq trains on, and the order of its rows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from linformer_fairseq.inference.sequences import EOS, Ids, Sequences

POOL = 50  # batches whose rows are sorted by length together
_SPECIAL = 4  # symbols before the first class in fairseq's dictionary of labels


def batches_of_like_length(lengths: Sequence[int], batch_size: int, seed: int) -> Ids:
    """An order in which neighbours have about the same length, so that batches of it hold few pads.

    Rows are shuffled, and each `POOL` batches of them sorted by length; fairseq shuffles the batches every epoch. On
    IMDB a batch of 32 rows at random is always as long as the model reads.

    Args:
        lengths: of the sequences.
        batch_size: sequences in a batch.
        seed: of the order.

    Returns:
        (sequences,) a permutation.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    pool = batch_size * POOL
    sizes = np.asarray(lengths)
    pools = [order[start : start + pool] for start in range(0, len(order), pool)]
    return np.concatenate([part[np.argsort(sizes[part], kind="stable")] for part in pools]).astype(np.int64)


def write_data(
    folder: Path,
    dictionary: Path,
    splits: Mapping[str, tuple[Sequences, Sequence[float]]],
    classes: Sequence[str],
    batch_size: int = 1,
    seed: int = 1,
) -> None:
    """Writes what fairseq's task `sentence_prediction` reads with `--no-shuffle`, in batches of like length.

    Args:
        folder: to be made.
        dictionary: dict.txt of the tokenizer.
        splits: rows and targets of train and valid; a target is a class id, or a score where there are no classes.
        classes: names of the classes; without any, it is a regression.
        batch_size, seed: see `batches_of_like_length`.
    """
    for name in ("input0", "label"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(dictionary, folder / "input0/dict.txt")
    (folder / "label/dict.txt").write_text("".join(f"{i} 1\n" for i in range(len(classes))))
    for split, (rows, of_rows) in splits.items():
        order = batches_of_like_length([len(ids) for ids in rows.ids], batch_size, seed)
        targets = rows.of_rows(of_rows)
        _write_items(folder / "input0" / split, [rows.ids[i] for i in order])
        if classes:
            _write_items(folder / "label" / split, [np.array([int(targets[i]) + _SPECIAL, EOS]) for i in order])
        else:
            (folder / f"label/{split}.label").write_text("".join(f"{targets[i]}\n" for i in order))


def _write_items(prefix: Path, items: Sequence[Ids]) -> None:
    builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32)
    for item in items:
        builder.add_item(torch.from_numpy(item))
    builder.finalize(f"{prefix}.idx")

"""The folder that fairseq trains on, and the order of its rows."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.inference.sequences import EOS, Ids, Sequences
from linformer_fairseq.scores import Array

POOL = 50  # batches whose rows are sorted by length together
_SPECIAL = 4  # symbols before the first class in fairseq's dictionary of labels


def length_bucketed_order(lengths: Sequence[int], batch_size: int, seed: int) -> Ids:
    """A random permutation in which neighbours have about the same length, so that batches need little padding.

    Rows are shuffled, and each `POOL` batches of them sorted by length; fairseq shuffles the batches every epoch.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    sizes = np.asarray(lengths)
    pools = np.split(order, range(batch_size * POOL, len(order), batch_size * POOL))
    return np.concatenate([pool[np.argsort(sizes[pool], kind="stable")] for pool in pools]).astype(np.int64)


def write_data(
    folder: Path,
    dictionary: Path,
    splits: Mapping[str, tuple[Sequences, Array]],
    labels: Labels,
    batch_size: int = 1,
    seed: int = 1,
) -> None:
    """Write what fairseq's task `sentence_prediction` reads with `--no-shuffle`, in length-bucketed batches.

    `dictionary` is the tokenizer's dict.txt; `splits` are rows and targets (`labels.targets`) of train and valid.
    """
    for name in ("input0", "label"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(dictionary, folder / "input0/dict.txt")
    (folder / "label/dict.txt").write_text("".join(f"{i} 1\n" for i in range(len(labels.classes))))
    for split, (rows, targets) in splits.items():
        order = length_bucketed_order([len(ids) for ids in rows.ids], batch_size, seed)
        ordered = [targets[rows.owners[i]] for i in order]
        write_items(folder / "input0" / split, [rows.ids[i] for i in order])
        if labels.classes and not labels.several:
            write_items(folder / "label" / split, [np.array([int(target) + _SPECIAL, EOS]) for target in ordered])
        else:
            lines = (f"{' '.join(map(str, np.atleast_1d(target)))}\n" for target in ordered)
            (folder / f"label/{split}.label").write_text("".join(lines))


def write_items(prefix: Path, items: Sequence[Ids]) -> None:
    """Write PREFIX.bin and PREFIX.idx."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32)
    for item in items:
        builder.add_item(torch.from_numpy(item))
    builder.finalize(f"{prefix}.idx")

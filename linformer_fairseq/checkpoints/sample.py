"""Blocks of binarised text, to look at what a model does with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from fairseq.data import Dictionary, data_utils
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import PAD
from linformer_fairseq.errors import UsageError


def sample_blocks(
    data: Path, length: int, count: int, vocabulary: int, split: str = "train", masked: float = 0.15, seed: int = 1
) -> Tensor:
    """Random stretches of a data set, as masked-language-model training sees them: <s> first, some tokens masked.

    Args:
        data: folder made by fairseq-preprocess or `python -m data_prep binarize`.
        length: tokens of a block.
        count: blocks.
        vocabulary: rows of the model's embedding, of which the last is <mask>.
        masked: share of tokens that are masked.

    Returns:
        (count, length) ids; fewer blocks where the data has less text. A text shorter than one block is padded.

    Raises:
        UsageError: no such data, or of another dictionary.
    """
    path = data / "dict.txt"
    if not path.is_file():
        raise UsageError(f"{data}: has no dict.txt; give a folder of binarised text, such as fairseq-train takes")
    symbols = Dictionary.load(str(path))
    if len(symbols) + 1 != vocabulary:
        raise UsageError(f"{path}: has {len(symbols):,} symbols with the special ones, the model {vocabulary - 1:,}")
    lines = data_utils.load_indexed_dataset(str(data / split), symbols)
    if lines is None or len(lines) == 0:
        raise UsageError(f"{data}: has no {split} data")
    rng = np.random.default_rng(seed)
    blocks = torch.full((count, length), PAD)
    filled = 0
    for start in rng.permutation(len(lines))[:count]:
        block = blocks[filled]
        block[0], at = symbols.bos(), 1
        for line in range(int(start), len(lines)):
            piece = lines[line][: length - at]
            block[at : at + len(piece)] = piece
            at += len(piece)
            if at == length:
                break
        hidden = torch.from_numpy(rng.random(length) < masked) & (block >= symbols.nspecial)
        block[hidden] = vocabulary - 1
        filled += 1
    return blocks[:filled]

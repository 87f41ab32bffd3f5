"""Small splits in fairseq's format, written by fairseq."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from linformer_fairseq.tasks.blocks import TokenFile

SYMBOLS = 1000


def write_sentences(prefix: Path, lengths: Sequence[int], seed: int = 0) -> TokenFile:
    """Write `prefix`.bin and .idx: sentences of these lengths, of random tokens with </s> (2) at their ends."""
    rng = np.random.default_rng(seed)
    builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", np.uint16)
    for length in lengths:
        builder.add_item(torch.from_numpy(np.append(rng.integers(4, SYMBOLS, length - 1), 2)))
    builder.finalize(f"{prefix}.idx")
    return TokenFile(prefix)


@pytest.fixture(scope="session")
def write_split() -> Callable[..., TokenFile]:
    """`write_sentences`, for tests, which cannot import this file."""
    return write_sentences

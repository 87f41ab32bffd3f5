"""Blocks of binarised text, and perplexity beside its definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary, data_utils

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build
from linformer_fairseq.checkpoints.sample import perplexity, sample_blocks
from linformer_fairseq.errors import UsageError


@pytest.fixture(scope="module")
def size(tiny_data: Path) -> int:
    """Symbols of the dictionary with <mask>."""
    return len(Dictionary.load(str(tiny_data / "dict.txt"))) + 1


def test_blocks_are_stretches_of_the_text(tiny_data: Path, size: int) -> None:
    blocks = sample_blocks(tiny_data, 60, 10, size, masked=0)
    assert blocks.shape == (10, 60) and (blocks[:, 0] == 0).all()
    lines = data_utils.load_indexed_dataset(str(tiny_data / "train"), Dictionary.load(str(tiny_data / "dict.txt")))
    text = " ".join(str(i) for line in lines for i in line.tolist())
    full = [block for block in blocks if (block != 1).all()]
    assert len(full) > 5
    assert all(" ".join(map(str, block[1:].tolist())) in text for block in full)


def test_some_tokens_are_masked_and_no_special_one(tiny_data: Path, size: int) -> None:
    clean, masked = (sample_blocks(tiny_data, 100, 50, size, masked=share) for share in (0, 0.15))
    hidden = masked == size - 1
    assert 0.1 < hidden.float().mean() < 0.16
    assert (clean[hidden] >= 4).all() and torch.equal(clean[~hidden], masked[~hidden])


def test_the_seed_chooses(tiny_data: Path, size: int) -> None:
    one, again, other = (sample_blocks(tiny_data, 20, 5, size, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_less_text_than_asked_for(tiny_data: Path, size: int) -> None:
    assert sample_blocks(tiny_data, 20, 100, size, split="valid").shape == (40, 20)
    assert (sample_blocks(tiny_data, 5000, 1, size, split="valid") == 1).any()


def test_other_data_are_refused(tiny_data: Path, size: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no dict.txt"):
        sample_blocks(tmp_path, 20, 5, size)
    with pytest.raises(UsageError, match="symbols with the special ones, the model"):
        sample_blocks(tiny_data, 20, 5, size + 1)
    with pytest.raises(UsageError, match="has no test data"):
        sample_blocks(tiny_data, 20, 5, size, split="test")


def test_perplexity_is_the_mean_over_masked_tokens_of_all_batches(make_checkpoint: Callable[..., Checkpoint]) -> None:
    checkpoint = make_checkpoint()
    chance = torch.Generator().manual_seed(0)
    whole = torch.randint(4, 39, (20, 32), generator=chance)
    masked = torch.where(torch.rand(20, 32, generator=chance) < 0.2, 39, whole)
    with torch.no_grad():
        log_probabilities = build(checkpoint)(masked)[0].log_softmax(-1)
    losses = [-log_probabilities[b, i, whole[b, i]].item() for b, i in (masked != whole).nonzero().tolist()]
    assert perplexity(checkpoint, masked, whole) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)

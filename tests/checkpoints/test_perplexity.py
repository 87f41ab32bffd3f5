"""Perplexity of masked tokens, beside its definition."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build
from linformer_fairseq.checkpoints.perplexity import perplexity


def test_it_is_the_mean_over_masked_tokens_of_all_batches(make_checkpoint: Callable[..., Checkpoint]) -> None:
    checkpoint = make_checkpoint()
    chance = torch.Generator().manual_seed(0)
    whole = torch.randint(4, 39, (20, 32), generator=chance)
    masked = torch.where(torch.rand(20, 32, generator=chance) < 0.2, 39, whole)
    with torch.no_grad():
        log_probabilities = build(checkpoint)(masked)[0].log_softmax(-1)
    losses = [-log_probabilities[b, i, whole[b, i]].item() for b, i in (masked != whole).nonzero().tolist()]
    assert perplexity(checkpoint, masked, whole) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)

"""The way through fairseq that uses what NumPy has removed."""

from __future__ import annotations

import numpy as np
import torch
from fairseq.modules import dynamic_crf_layer


def test_a_crf_scores_its_targets() -> None:
    """It puts the targets into its beam by a score of np.float("inf")."""
    torch.manual_seed(0)
    crf = dynamic_crf_layer.DynamicCRF(num_embedding=12, low_rank=4, beam_size=6)
    likelihood = crf(torch.randn(2, 5, 12), torch.randint(12, (2, 5)), torch.ones(2, 5, dtype=torch.bool))
    assert torch.isfinite(likelihood).all() and (likelihood < 0).all()


def test_the_name_stays_unknown_elsewhere() -> None:
    assert not hasattr(np, "float")
    assert dynamic_crf_layer.np.float64 is np.float64

"""The ways through fairseq that use what NumPy has removed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fairseq.data import data_utils
from fairseq.modules.dynamic_crf_layer import DynamicCRF

import linformer_fairseq  # noqa: F401  (applies the repairs)


def test_span_masks_without_overlap() -> None:
    mask = data_utils.compute_mask_indices((2, 40), None, 0.3, 5, "uniform", no_overlap=True, min_space=1)
    assert mask.shape == (2, 40) and mask.dtype == bool and 0 < mask.sum() < mask.size


def test_crf_decoding() -> None:
    """Its beam starts from a mask that NumPy's removed float fills."""
    crf = DynamicCRF(num_embedding=20, low_rank=4, beam_size=5)
    scores, tokens = crf.forward_decoder(torch.randn(2, 6, 20))
    assert scores.shape[0] == tokens.shape[0] == 2 and tokens.shape[1] == 6


@pytest.mark.parametrize("name", ["int", "float"])
def test_the_names_stay_unknown_elsewhere(name: str) -> None:
    assert not hasattr(np, name)

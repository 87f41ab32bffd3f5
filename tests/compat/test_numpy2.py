"""The code of fairseq that uses names which NumPy has removed."""

import numpy as np
import pytest
import torch
from fairseq.data import data_utils
from fairseq.modules.dynamic_crf_layer import DynamicCRF

import linformer_fairseq  # noqa: F401  (applies the repairs)


@pytest.mark.parametrize("name", ["compute_mask_indices", "compute_mask_indices_v3"])
def test_span_masks_without_overlap(name):
    compute = getattr(data_utils, name)
    mask = compute((2, 50), None, 0.4, 5, mask_type="static", no_overlap=True, min_space=1, **SEEDS.get(name, {}))
    assert mask.shape == (2, 50) and mask.dtype == bool
    assert mask.any(axis=1).all() and not mask.all(axis=1).any()


def test_crf_normaliser():
    torch.manual_seed(0)
    crf = DynamicCRF(num_embedding=12, low_rank=4, beam_size=6)
    emissions, targets = torch.randn(2, 5, 12), torch.randint(12, (2, 5))
    likelihood = crf(emissions, targets, torch.ones(2, 5, dtype=torch.bool))
    assert torch.isfinite(likelihood).all() and (likelihood < 0).all()


def test_numpy_itself_stays_as_it_is():
    assert not hasattr(np, "int") and not hasattr(np, "float")
    assert data_utils.np.float64 is np.float64

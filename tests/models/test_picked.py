"""The indices of picked tokens lead to the same tokens on both ways."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.models.picked import pick


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**16), st.sampled_from((0.0, 0.15, 0.6, 1.0)))
def test_both_ways_lead_to_the_masked_tokens_in_order(batch: int, length: int, seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(batch, length, generator=generator) < share
    values = torch.arange(batch * length).view(batch, length)
    picked = pick(masked)
    assert picked.places.shape == (batch, max(1, int(masked.sum(1).max())))
    assert torch.equal(values.flatten()[picked.tokens], values[masked])
    assert torch.equal(values.gather(1, picked.places).flatten()[picked.slots], values[masked])

"""Averages over groups of positions, from attention."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linformer_fairseq.checkpoints.spectral import spectral_matrix
from linformer_fairseq.layers.projection import block_mean_matrix


def gram(n: int, seed: int) -> Tensor:
    """Of the attention of random queries and keys."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(3, n, 4, generator=generator) for _ in range(2))
    weights = (q @ k.transpose(1, 2)).softmax(-1)
    return torch.einsum("hqi,hqj->ij", weights, weights)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 24), part=st.floats(0, 1), seed=st.integers(0, 99), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_rows_are_means_of_disjoint_groups_that_cover_all_positions(
    n: int, part: float, seed: int, scale: float
) -> None:
    k = 1 + int(part * (n - 1))
    matrix = spectral_matrix(gram(n, seed) * scale, k)
    assert matrix.shape == (k, n)
    assert torch.equal((matrix > 0).sum(0), torch.ones(n, dtype=torch.long)) and (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(k))
    sizes = (matrix > 0).sum(1, keepdim=True)
    torch.testing.assert_close(matrix * sizes, (matrix > 0).float())


@settings(max_examples=40, deadline=None)
@given(k=st.integers(1, 6), size=st.integers(1, 5), seed=st.integers(0, 99))
def test_groups_that_are_attended_to_alike_are_found(k: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(k).repeat(size)[torch.randperm(k * size, generator=generator)]
    weights = torch.rand(50, k, generator=generator)[:, groups].log().softmax(-1)
    found = spectral_matrix(weights.t() @ weights, k)
    together = (groups[:, None] == groups).float() / size
    torch.testing.assert_close(found.t() @ found * size, together)


@pytest.mark.parametrize(("n", "k"), [(12, 3), (16, 16), (8, 1), (512, 128)])
def test_without_attention_neighbours_are_averaged(n: int, k: int) -> None:
    torch.testing.assert_close(spectral_matrix(torch.zeros(n, n), k), block_mean_matrix(k, n))


def test_a_stack_gives_one_matrix_each() -> None:
    stack = torch.stack([gram(8, 1), gram(8, 2)])
    assert torch.equal(spectral_matrix(stack, 3)[1], spectral_matrix(stack[1], 3))

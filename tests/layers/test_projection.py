"""E and F: what they compute, how they start, and how they are stored."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linformer_fairseq.layers import EncoderConfig
from linformer_fairseq.layers.projection import (
    LinearProjection,
    block_mean_matrix,
    build_projection,
    slot_mask,
)

KINDS = ("linear", "mean-pool", "max-pool", "conv")


def config(**kwargs: object) -> EncoderConfig:
    sizes = {
        "vocab_size": 50,
        "max_positions": 64,
        "embed_dim": 16,
        "ffn_dim": 16,
        "num_heads": 4,
        "num_layers": 2,
    }
    return EncoderConfig(**{**sizes, "projected_length": 16, **kwargs})  # type: ignore[arg-type]


@given(k=st.integers(1, 40), more=st.integers(0, 60))
def test_block_mean_rows_average_and_columns_share_evenly(k: int, more: int) -> None:
    n = k + more
    matrix = block_mean_matrix(k, n)
    assert matrix.shape == (k, n)
    torch.testing.assert_close(matrix.sum(1), torch.ones(k))
    torch.testing.assert_close(matrix.sum(0), torch.full((n,), k / n))


def test_block_mean_of_a_divisor_is_mean_pooling() -> None:
    x = torch.randn(2, 64, 16)
    pooled = build_projection(config(projection="mean-pool"), 16)(x)
    torch.testing.assert_close(block_mean_matrix(16, 64) @ x, pooled)


def test_normal_start_has_the_variance_of_the_paper() -> None:
    cfg = config(max_positions=2048, projected_length=256, projection_init="normal")
    assert build_projection(cfg, 256).matrix().std().item() == pytest.approx((1 / 256) ** 0.5, rel=0.02)


def test_noise_sets_e_and_f_apart() -> None:
    cfg = config(sharing="headwise")
    e, f = build_projection(cfg, 16), build_projection(cfg, 16)
    difference = (e.matrix() - f.matrix()).norm() / e.matrix().norm()
    assert 0 < difference < 0.2


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(tokens=st.integers(1, 64), pads=st.integers(0, 64))
def test_pads_change_nothing(kind: str, tokens: int, pads: int) -> None:
    pads = min(pads, 64 - tokens)
    cfg = config(projection=kind)
    projection = build_projection(cfg, 16)
    x = torch.randn(2, tokens, 16)
    keep = torch.arange(tokens + pads).expand(2, -1) < tokens
    padded = torch.cat([x, torch.zeros(2, pads, 16)], 1)
    bare, out = projection(x, None), projection(padded, keep)
    torch.testing.assert_close(out[:, : bare.size(1)], bare)
    mask = slot_mask(cfg, 16, keep)
    if kind != "linear":
        assert mask is not None
        assert mask.sum(-1).flatten().tolist() == [bare.size(1)] * 2


def test_max_pool_takes_the_maximum_of_real_tokens_only() -> None:
    x = -torch.arange(1.0, 9).view(1, 8, 1).expand(1, 8, 16)
    keep = torch.arange(8)[None] < 5
    pooled = build_projection(config(projection="max-pool"), 16)(x * keep.unsqueeze(-1), keep)
    assert pooled[0, :, 0].tolist() == [-1, -5]


def test_conv_is_torchs_depthwise_convolution() -> None:
    projection = build_projection(config(projection="conv", sharing="headwise"), 16)
    x = torch.randn(3, 64, 16)
    taps = projection.matrix().unsqueeze(1)
    expected = torch.nn.functional.conv1d(x.transpose(1, 2), taps, stride=4, groups=16).transpose(1, 2)
    torch.testing.assert_close(projection(x), expected)


def test_one_matrix_per_head_acts_on_its_head() -> None:
    projection = build_projection(config(sharing="none"), 16)
    x = torch.randn(2, 40, 16)
    out = projection(x)
    for head in range(4):
        channels = slice(4 * head, 4 * head + 4)
        expected = projection.matrix()[head, :, :40] @ x[..., channels]
        torch.testing.assert_close(out[..., channels], expected)


@pytest.mark.parametrize("saved_scale, scale", [(0.1, 0.1), (0.1, 1.0), (1.0, 0.3)])
def test_another_lr_scale_keeps_the_matrix(saved_scale: float, scale: float) -> None:
    old = LinearProjection(config(projection_lr_scale=saved_scale), 16)
    new = LinearProjection(config(projection_lr_scale=scale), 16)
    new.load_state_dict(old.state_dict())
    torch.testing.assert_close(new.matrix(), old.matrix())
    if saved_scale == scale:
        assert torch.equal(new.weight, old.weight)


def test_a_bare_matrix_loads_as_it_is() -> None:
    matrix = torch.randn(16, 64)
    projection = LinearProjection(config(), 16)
    projection.load_state_dict({"weight": matrix})
    torch.testing.assert_close(projection.matrix(), matrix)


def test_lr_scale_slows_adam_down_by_that_factor() -> None:
    moved = {}
    for scale in (1.0, 0.1):
        torch.manual_seed(0)
        projection = LinearProjection(config(projection_lr_scale=scale), 16)
        before = projection.matrix().detach()
        optimizer = torch.optim.Adam(projection.parameters(), lr=1e-3, eps=1e-12)
        projection(torch.randn(2, 64, 16)).square().sum().backward()
        optimizer.step()
        moved[scale] = (projection.matrix().detach() - before).abs().mean().item()
    assert moved[0.1] == pytest.approx(0.1 * moved[1.0], rel=1e-3)


def test_frozen_projection_has_no_gradient() -> None:
    projection = LinearProjection(config(freeze_projection=True), 16)
    assert not projection.weight.requires_grad

"""Attention: equal to exact attention where it must be, and blind to padding."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from linformer_fairseq.layers import (
    EncoderConfig,
    LinformerEncoder,
    LinformerSelfAttention,
    NoAttention,
    SelfAttention,
)
from linformer_fairseq.layers.attention import LocalConv
from linformer_fairseq.layers.projection import LinearProjection, build_projection
from tests.faults.padding import at_trained_scale, largest_change, ours

SHARINGS = ("none", "headwise", "key-value", "layerwise")
KINDS = ("linear", "mean-pool", "max-pool", "conv", "adaptive")


def config(**kwargs: object) -> EncoderConfig:
    sizes = {
        "vocab_size": 100,
        "max_positions": 512,
        "embed_dim": 64,
        "ffn_dim": 64,
        "num_heads": 4,
        "num_layers": 2,
    }
    return EncoderConfig(**{**sizes, "projected_length": 128, **kwargs})  # type: ignore[arg-type]


@pytest.mark.parametrize("local_conv", (0, 9))
@pytest.mark.parametrize("sharing, kind", list(itertools.product(SHARINGS, KINDS)))
def test_padding_and_neighbours_change_nothing(sharing: str, kind: str, local_conv: int) -> None:
    assert largest_change(ours(sharing, kind, local_conv=local_conv)) <= 1e-6


@pytest.mark.parametrize("attention", ("exact", "none"))
def test_padding_does_not_reach_the_controls(attention: str) -> None:
    assert largest_change(ours("layerwise", "linear", attention=attention, local_conv=9)) <= 1e-6


@settings(deadline=None, max_examples=30)
@given(
    sharing=st.sampled_from(SHARINGS),
    kind=st.sampled_from(KINDS),
    k=st.sampled_from((1, 2, 8, 32)),
    heads=st.sampled_from((1, 2, 4)),
    tokens=st.integers(1, 32),
    pads=st.integers(0, 32),
)
def test_padding_changes_nothing_for_any_shape(
    sharing: str, kind: str, k: int, heads: int, tokens: int, pads: int
) -> None:
    k = max(k, 3) if kind == "adaptive" else k  # as it needs
    features = ours(sharing, kind, k, n=32, num_heads=heads, embed_dim=16, ffn_dim=8)
    assert largest_change(features, (min(32, tokens + pads),), tokens) <= 2e-6


@torch.no_grad()
def test_shuffling_the_batch_shuffles_the_output() -> None:
    model = at_trained_scale(LinformerEncoder(config()))
    batch = torch.randint(2, 100, (5, 60))
    order = torch.randperm(5)
    torch.testing.assert_close(model(batch)[0][order], model(batch[order])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sharing", SHARINGS)
@torch.no_grad()
def test_identity_projection_is_exact_attention(sharing: str) -> None:
    cfg = config(sharing=sharing, max_positions=48, projected_length=48)
    exact = at_trained_scale(SelfAttention(cfg))
    linformer = LinformerSelfAttention(cfg, 48).eval()
    linformer.load_state_dict(exact.state_dict(), strict=False)
    shared = build_projection(cfg, 48) if cfg.one_for_all_layers else None
    for module in (linformer.E, linformer.F, shared):
        if isinstance(module, LinearProjection):
            module.weight.copy_((torch.eye(48) / module.lr_scale).expand_as(module.weight))
    x = torch.randn(3, 48, 64)
    torch.testing.assert_close(linformer(x, None, shared), exact(x), rtol=0, atol=1e-5)


@torch.no_grad()
def test_exact_attention_is_torchs() -> None:
    cfg = config()
    ours = at_trained_scale(SelfAttention(cfg))
    theirs = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        projection = getattr(ours, name)
        theirs.in_proj_weight[64 * i : 64 * i + 64] = projection.weight
        theirs.in_proj_bias[64 * i : 64 * i + 64] = projection.bias
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    x = torch.randn(2, 30, 64)
    keep = torch.arange(30).expand(2, -1) < torch.tensor([[30], [20]])
    expected = theirs(x, x, x, key_padding_mask=~keep)[0]
    torch.testing.assert_close(ours(x, keep)[keep], expected[keep], rtol=0, atol=1e-5)


@pytest.mark.parametrize("sharing", ("none", "headwise"))
@torch.no_grad()
def test_compressing_before_or_after_projecting_is_the_same(sharing: str) -> None:
    """The paper's E (x W_k), with the bias added last, whichever order is cheaper."""
    cfg = config(sharing=sharing)
    attention = at_trained_scale(LinformerSelfAttention(cfg, 128))
    x = torch.randn(2, 100, 64)
    slots = attention.slots(x, None, None, None)
    for heads, projection, linear in (
        (slots.keys, attention.E, attention.k_proj),
        (slots.values, attention.F, attention.v_proj),
    ):
        result = heads.transpose(1, 2).flatten(-2)
        heads = (x @ linear.weight.T).unflatten(-1, (4, 16)).transpose(1, 2)
        expected = (projection.matrix()[..., :100] @ heads).transpose(1, 2).flatten(-2) + linear.bias
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_attention_dropout_is_honoured_in_training_only() -> None:
    x = torch.randn(2, 40, 64)
    cfg = config(attention_dropout=0.5, sharing="headwise")
    attention = at_trained_scale(LinformerSelfAttention(cfg, 128))
    assert torch.equal(attention(x), attention(x))
    attention.train()
    assert not torch.equal(attention(x), attention(x))
    undropped = at_trained_scale(LinformerSelfAttention(config(attention_dropout=0.0, sharing="headwise"), 128)).train()
    assert torch.equal(undropped(x), undropped(x))


def test_local_conv_reaches_half_its_width() -> None:
    conv = LocalConv(config(local_conv=9))
    x = torch.randn(1, 40, 64)
    moved = x.clone()
    moved[0, 20] += 1
    changed = (conv(moved) != conv(x)).any(-1)[0].nonzero().flatten().tolist()
    assert changed == list(range(16, 25))


def test_without_attention_a_token_sees_its_neighbourhood_only() -> None:
    x = torch.randn(1, 40, 64)
    moved = x.clone()
    moved[0, 20] += 1
    for width, reach in ((0, 0), (5, 2)):
        control = NoAttention(config(local_conv=width)).eval()
        changed = (control(moved) - control(x)).abs().amax(-1)[0].gt(1e-7).nonzero().flatten().tolist()
        assert changed == list(range(20 - reach, 21 + reach))


def test_layerwise_attention_needs_the_shared_matrix() -> None:
    with pytest.raises(ValueError, match="shares E across layers"):
        LinformerSelfAttention(config(), 128)(torch.randn(1, 4, 64))

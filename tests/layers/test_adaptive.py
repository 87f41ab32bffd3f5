"""Blocks that follow the length of the text: exact up to k tokens, independent of padding, in time linear in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder
from linformer_fairseq.layers.adaptive import members, slots_of, spans
from linformer_fairseq.layers.config import SHARINGS
from linformer_fairseq.layers.projection import AdaptiveProjection
from tests.faults.padding import at_trained_scale


def encoder(**settings: object) -> LinformerEncoder:
    sizes = {"vocab_size": 60, "max_positions": 128, "embed_dim": 32, "ffn_dim": 32, "num_heads": 4, "num_layers": 2}
    kind = {"projected_length": 16, "projection": "adaptive", "sharing": "headwise"}
    model = LinformerEncoder(EncoderConfig(**(sizes | kind | settings)))  # type: ignore[arg-type]
    at_trained_scale(model)
    for module in model.modules():
        if isinstance(module, AdaptiveProjection):
            torch.nn.init.normal_(module.weight, std=3.0)
    return model


def sentence(tokens: int, rows: int = 1) -> Tensor:
    return torch.randint(2, 60, (rows, tokens), generator=torch.Generator().manual_seed(tokens))


def shapes(longest: int) -> Callable[[Any], Any]:
    """Any sharing and window, a text of up to `longest` tokens, and pads or neighbours' tokens around it."""
    window, around = st.sampled_from((0, 3, 40)), st.integers(0, 19)
    shape = given(st.sampled_from(SHARINGS), window, st.integers(1, longest), around, around)
    return lambda test: settings(max_examples=60, deadline=None)(shape(test))


@shapes(longest=16)
@torch.no_grad()
def test_up_to_k_tokens_it_is_exact_attention(sharing: str, window: int, tokens: int, before: int, after: int) -> None:
    """Also where pads make the input longer than k."""
    model, exact = encoder(sharing=sharing, local_window=window), encoder(attention="exact")
    exact.load_state_dict({name: model.state_dict()[name] for name in exact.state_dict()})
    text = torch.ones(1, before + tokens + after, dtype=torch.long)
    text[:, before : before + tokens] = sentence(tokens)
    real = text.ne(1)
    torch.testing.assert_close(model(text)[0][real], exact(text)[0][real], rtol=0, atol=1e-5)


@shapes(longest=90)
@torch.no_grad()
def test_neither_padding_nor_neighbours_change_a_text(
    sharing: str, window: int, tokens: int, before: int, after: int
) -> None:
    model = encoder(sharing=sharing, local_window=window)
    batch = sentence(before + tokens + after, 3)
    batch[1] = 1
    batch[1, before : before + tokens] = sentence(tokens)
    alone = model(sentence(tokens))[0][0]
    change = model(batch)[0][1, before : before + tokens] - alone
    assert change.norm() / alone.norm() <= 1e-6


@given(k=st.integers(3, 20), keep=st.lists(st.booleans(), min_size=21, max_size=60))
def test_slots_cover_the_text_in_order(k: int, keep: list[bool]) -> None:
    """The first and the last token are alone, the other blocks differ by at most a token; both layouts agree."""
    real = torch.tensor([keep])
    positions, filled = members(len(keep), k, real, real.device)
    blocks = [positions[0, j][filled[0, j]].tolist() for j in range(k)]
    expected = [i for i, kept in enumerate(keep) if kept]
    assert [i for block in blocks for i in block] == expected
    used = [block for block in blocks if block]
    assert len(used) == min(k, len(expected)) and used == blocks[: len(used)]
    if len(expected) > k:
        sizes = [len(block) for block in used]
        assert sizes[0] == sizes[-1] == 1 and max(sizes[1:-1]) - min(sizes[1:-1]) <= 1
    assert slots_of(real, k)[0][real[0]].tolist() == [j for j, block in enumerate(blocks) for _ in block]
    first, last = spans(len(keep), k, real, real.device)
    assert [(first[0, j].item(), last[0, j].item()) for j in range(len(used))] == [(b[0], b[-1]) for b in used]


@pytest.mark.parametrize("sharing", SHARINGS)
def test_it_starts_at_the_mean_and_learns_weights(sharing: str) -> None:
    cfg = EncoderConfig(60, projected_length=5, projection="adaptive", sharing=sharing, embed_dim=8, num_heads=2)
    projection = AdaptiveProjection(cfg, 5)
    x = torch.randn(1, 11, 8, requires_grad=True)
    blocks = ((0,), (1, 2, 3), (4, 5, 6), (7, 8, 9), (10,))
    means = torch.stack([x[0, list(block)].mean(0) for block in blocks])
    torch.testing.assert_close(projection(x)[0], means)
    torch.nn.init.normal_(projection.weight)
    weights = projection.matrix().view(-1, 8 // projection.heads)
    expected = []
    for block in blocks:
        tokens = x[0, list(block)].unflatten(1, weights.shape)
        shares = torch.softmax((tokens * weights).sum(-1), 0)
        expected.append((shares.unsqueeze(-1) * tokens).sum(0).flatten())
    torch.testing.assert_close(projection(x)[0], torch.stack(expected))
    ours, theirs = (
        torch.autograd.grad(out.square().sum(), (x, projection.weight))
        for out in (projection(x)[0], torch.stack(expected))
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("sharing", ("layerwise", "none"))
@torch.no_grad()
def test_the_exported_graph_computes_the_same_means(sharing: str) -> None:
    model = encoder(sharing=sharing)
    text = sentence(70, 2)
    text[0, 40:] = 1
    expected = model(text)[0][text.ne(1)]
    with mock.patch("torch.compiler._is_exporting_flag", True):
        torch.testing.assert_close(model(text)[0][text.ne(1)], expected, rtol=0, atol=1e-5)


def test_from_k_to_k_plus_1_tokens_one_block_has_two() -> None:
    _, filled = members(17, 16, None, torch.device("cpu"))
    assert sorted(filled.sum(-1)[0].tolist()) == [1] * 15 + [2]

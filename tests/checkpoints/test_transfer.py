"""Fitting a Linformer's attention to exact attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import build
from linformer_fairseq.checkpoints.transfer import transfer
from linformer_fairseq.checkpoints.warm_start import to_linformer
from linformer_fairseq.errors import UsageError

N, K, VOCABULARY = 32, 8, 40


@pytest.fixture
def batches(tokens: Tensor) -> list[Tensor]:
    """One batch of full length, one with pads."""
    return [torch.randint(4, VOCABULARY, (4, N), generator=torch.Generator().manual_seed(0)), tokens]


@pytest.mark.parametrize("sharing", ["none", "headwise", "key-value", "layerwise"])
@pytest.mark.parametrize("init", ["block-mean", "random"])
def test_the_error_falls_and_nothing_but_e_and_f_moves(
    sharing: str, init: str, make_checkpoint: Any, batches: list[Tensor]
) -> None:
    exact = make_checkpoint(attention="exact", local_conv=3)
    before = to_linformer(exact, str(K), None, sharing, "linear", init)
    after, losses = transfer(exact, before, batches[:1], steps=40)
    assert len(losses) == 40 and losses[-1] < 0.7 * losses[0]
    moved = {key for key, value in before.state.items() if not torch.equal(after.state[key], value)}
    assert moved == {key for key in before.state if key.endswith((".E.weight", ".F.weight"))}
    again = transfer(exact, after, batches[:1], steps=1)[1]
    assert again[0] == pytest.approx(losses[-1], rel=0.05), "the checkpoint is the fitted model"
    assert after.notes[-1]["errors"] == [losses[0], losses[-1]]


def test_without_compression_there_is_no_error(make_checkpoint: Any, batches: list[Tensor]) -> None:
    exact = make_checkpoint(attention="exact")
    losses = transfer(exact, to_linformer(exact, str(N)), batches[:1], steps=1)[1]
    assert losses[0] < 1e-10


def test_pads_do_not_count(make_checkpoint: Any, tokens: Tensor) -> None:
    """What is fitted does not depend on how far the batch is padded."""
    exact = make_checkpoint(attention="exact")
    linformer = to_linformer(exact, str(K))
    wider = torch.nn.functional.pad(tokens, (0, N - tokens.size(1)), value=1)
    one, other = (transfer(exact, linformer, [batch], steps=3)[1] for batch in (tokens, wider))
    assert one == pytest.approx(other, rel=1e-4)


def test_longer_inputs_are_fitted_to_longer_exact_attention(make_checkpoint: Any) -> None:
    exact = make_checkpoint(attention="exact")
    linformer = to_linformer(exact, str(K), 2 * N)
    batch = torch.randint(4, VOCABULARY, (2, 2 * N), generator=torch.Generator().manual_seed(0))
    after, losses = transfer(exact, linformer, [batch], steps=30)
    assert losses[-1] < losses[0]
    name = "encoder.sentence_encoder.E.weight"
    assert (after.state[name] != linformer.state[name])[:, N:].any()
    assert build(after)(batch)[0].isfinite().all()


def test_the_given_checkpoint_stays_as_it_is(make_checkpoint: Any, batches: list[Tensor]) -> None:
    exact = make_checkpoint(attention="exact")
    linformer = to_linformer(exact, str(K))
    copy = {key: value.clone() for key, value in linformer.state.items()}
    transfer(exact, linformer, batches, steps=3)
    assert all(torch.equal(linformer.state[key], value) for key, value in copy.items())
    unchanged, losses = transfer(exact, linformer, batches, steps=0)
    assert losses == [] and all(torch.equal(unchanged.state[key], value) for key, value in copy.items())


def test_what_cannot_be_is_refused(make_checkpoint: Any, batches: list[Tensor]) -> None:
    exact = make_checkpoint(attention="exact")
    with pytest.raises(UsageError, match="--projection mean-pool has nothing to fit"):
        transfer(exact, to_linformer(exact, str(K), kind="mean-pool"), batches)
    with pytest.raises(UsageError, match="different numbers of layers"):
        transfer(make_checkpoint(attention="exact", encoder_layers=1), to_linformer(exact, str(K)), batches)
    with pytest.raises(UsageError, match="--sample holds no text"):
        transfer(exact, to_linformer(exact, str(K)), [])

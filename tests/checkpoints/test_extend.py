"""Longer inputs and other projected lengths."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, digest, encoder_config
from linformer_fairseq.checkpoints.extend import extend, resize_matrix, resize_positions, resize_taps
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers.projection import block_mean_matrix

MakeCheckpoint = Callable[..., Checkpoint]
VOCABULARY = 40


@pytest.mark.parametrize("sharing", ["none", "headwise", "key-value", "layerwise"])
@pytest.mark.parametrize("method", ["keep", "tile"])
@torch.no_grad()
def test_short_inputs_give_what_they_gave(
    make_checkpoint: MakeCheckpoint, tokens: torch.Tensor, sharing: str, method: str
) -> None:
    source = make_checkpoint(projection_sharing=sharing)
    before = digest(source.state)
    longer = extend(source, max_positions=100, method=method)
    torch.testing.assert_close(build(longer)(tokens)[0], build(source)(tokens)[0], rtol=0, atol=1e-6)
    assert digest(source.state) == before and encoder_config(longer).max_positions == 100
    long = torch.randint(4, VOCABULARY, (2, 100))
    assert build(longer)(long)[0].isfinite().all()
    assert longer.task["tokens_per_sample"] == 100 and longer.notes[-1]["conversion"] == "extend"


@pytest.mark.parametrize("projection", ["linear", "mean-pool", "max-pool", "conv"])
@pytest.mark.parametrize("method", ["keep", "tile", "interpolate"])
def test_every_kind_can_be_made_longer_and_k_changed(
    make_checkpoint: MakeCheckpoint, projection: str, method: str
) -> None:
    source = make_checkpoint(projection=projection, projection_sharing="headwise")
    for n, k in ((64, None), (64, "16"), (32, "4"), (64, "8,16")):
        config = encoder_config(extend(source, n, k, method))
        assert (config.max_positions, config.lengths[0]) == (n, int((k or "8").split(",")[0]))


@given(n=st.integers(4, 40), times=st.integers(2, 4), k=st.integers(1, 4))
def test_block_means_stay_block_means_when_interpolated(n: int, times: int, k: int) -> None:
    stretched = resize_matrix(block_mean_matrix(k, k * n), k, k * n * times, "interpolate")
    torch.testing.assert_close(stretched.sum(-1), torch.ones(k), rtol=0, atol=1e-4)
    assert (stretched.argmax(-1).diff() > 0).all()


@given(size=st.integers(1, 20), times=st.integers(1, 4), shorter=st.booleans())
def test_taps_keep_their_sum(size: int, times: int, shorter: bool) -> None:
    old, new = (size * times, size) if shorter else (size, size * times)
    taps = torch.randn(3, old, dtype=torch.float64)
    resized = resize_taps(taps, new)
    assert resized.shape == (3, new)
    torch.testing.assert_close(resized.sum(-1), taps.sum(-1), rtol=0, atol=1e-9)


def test_rows_before_the_first_position_stay() -> None:
    table = torch.arange(12.0).view(6, 2)
    tiled = resize_positions(table, 7, "tile")
    assert tiled[:6].equal(table) and tiled[6:8].equal(table[2:4]) and tiled.shape == (9, 2)
    stretched = resize_positions(table, 8, "interpolate")
    assert stretched[:2].equal(table[:2]) and (stretched[2:].diff(dim=0) >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((16, None, "keep"), "--max-positions 16: the checkpoint reads 32 already"),
        ((64, "128", "keep"), "--projected-length 128 does not lie between"),
        ((64, "8,4", "keep"), "--projection-sharing layerwise"),
        ((64, None, "fold"), "--method fold: must be one of keep"),
    ],
)
def test_what_cannot_be_is_refused(
    make_checkpoint: MakeCheckpoint, arguments: tuple[int, str | None, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        extend(make_checkpoint(), *arguments)


def test_the_positions_of_images_stay(make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(position_grid=5)
    with pytest.raises(UsageError, match="--max-positions 64: positions of images .* stay as many as they are"):
        extend(source, 64)
    assert encoder_config(extend(source, projected_length="4")).lengths == (4, 4)

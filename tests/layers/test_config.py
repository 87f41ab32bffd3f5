"""Impossible combinations are refused with a sentence that names the flag."""

from __future__ import annotations

import pytest

from linformer_fairseq.layers import EncoderConfig
from linformer_fairseq.layers.config import parse_projected_length


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"projected_length": (64, 32) * 6},
            "--projection-sharing layerwise.*cannot serve --projected-length 64,32.* or a model with",
        ),
        ({"projected_length": (64, 32)}, "--projected-length 64,32 has 2 entries for --encoder-layers 12"),
        ({"projected_length": 600}, "--projected-length 600 .*--max-positions 512"),
        ({"projected_length": 0}, "--projected-length 0 does not lie between 1"),
        (
            {"projected_length": 100, "projection": "mean-pool"},
            "--projection mean-pool .*--projected-length 100",
        ),
        ({"projected_length": 100, "projection": "conv"}, "--projection conv pools blocks"),
        ({"projection": "fourier"}, "--projection is 'fourier'.*linear, mean-pool"),
        ({"sharing": "all"}, "--projection-sharing is 'all'"),
        ({"projection_init": "zeros"}, "--projection-init is 'zeros'"),
        ({"attention": "fast"}, "--attention is 'fast'"),
        ({"attention": "local"}, "--local-window 0 does not go with --attention local"),
        ({"attention": "exact", "local_window": 8}, "--local-window 8 does not go with --attention exact"),
        ({"local_window": -1}, "--local-window is -1"),
        ({"projection": "adaptive", "projected_length": 2}, "--projected-length 2 is too small for --projection adapt"),
        ({"projection_lr_scale": 0.0}, "--projection-lr-scale is 0.0.*--freeze-projection"),
        ({"local_conv": 4}, "--local-conv is 4.*odd"),
        ({"num_heads": 5}, "--encoder-embed-dim 768 .*--encoder-attention-heads 5"),
        ({"num_layers": 0}, "--encoder-layers is 0"),
        ({"dropout": 1.0}, "--dropout is 1.0"),
        ({"layerdrop": -0.1}, "--encoder-layerdrop is -0.1"),
    ],
)
def test_refused_by_flag_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(vocab_size=100, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"projected_length": (64, 32) * 6, "sharing": "key-value"},
        {"projected_length": (64, 32) * 6, "projection": "mean-pool"},
        {"projected_length": 100},
        {"projected_length": 100, "projection": "adaptive", "local_window": 16},
        {"attention": "local", "local_window": 1},
        {"projected_length": 600, "attention": "exact"},
    ],
)
def test_accepted(settings: dict[str, object]) -> None:
    EncoderConfig(vocab_size=100, **settings)  # type: ignore[arg-type]


def test_projected_length_is_one_number_or_one_per_layer() -> None:
    assert parse_projected_length("256") == 256
    assert parse_projected_length(128) == 128
    assert parse_projected_length("256,128, 64") == (256, 128, 64)


@pytest.mark.parametrize("text", ["", "a", "1.5", "12,", "256;128"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--projected-length is"):
        parse_projected_length(text)

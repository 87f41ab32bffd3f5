"""The formula gives what PyTorch counts while it really computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder, fused
from linformer_fairseq.training.flops import encoder_flops, head_flops

CONFIG = EncoderConfig(
    vocab_size=50,
    max_positions=32,
    embed_dim=16,
    ffn_dim=48,
    num_heads=2,
    num_layers=3,
    projected_length=8,
    attention_dropout=0.0,
)


def counted(cfg: EncoderConfig, batch: int, tokens: int, used: int | None = None) -> float:
    """What PyTorch counts in forward and backward pass of the encoder."""
    torch.manual_seed(1)
    encoder = LinformerEncoder(cfg)
    # Plain operations and the math kernel: all products are seen by the counter, which knows none in place, and nothing
    # is computed a second time.
    with (
        pytest.MonkeyPatch.context() as patch,
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        patch.setattr(fused, "fuses", lambda x: False)
        needed = None if used is None else torch.arange(used).expand(batch, -1)
        encoder(torch.randint(4, cfg.vocab_size, (batch, tokens)), needed=needed)[0].sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "changes",
    [
        {"sharing": "layerwise"},
        {"sharing": "key-value", "projected_length": (8, 4, 2)},
        {"sharing": "headwise"},
        {"sharing": "none"},
        {"sharing": "headwise", "freeze_projection": True},
        {"projection": "mean-pool"},
        {"projection": "max-pool"},
        {"projection": "adaptive"},
        {"projection": "adaptive", "sharing": "headwise", "projected_length": (8, 5, 24)},
        {"projection": "adaptive", "sharing": "none", "freeze_projection": True},
        {"local_window": 2},
        {"projection": "adaptive", "local_window": 2},
        {"projection": "adaptive", "sharing": "none", "local_window": 2},
        {"attention": "local", "local_window": 2},
        {"attention": "exact"},
        {"attention": "none"},
        {"checkpoint_activations": False, "normalize_before": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("tokens", [32, 21])
def test_formula_equals_what_pytorch_counts(changes: dict[str, object], tokens: int) -> None:
    cfg = replace(CONFIG, **changes)  # type: ignore[arg-type]
    assert encoder_flops(cfg, 5, tokens) == counted(cfg, 5, tokens)
    assert encoder_flops(cfg, 5, tokens, used=6) == counted(cfg, 5, tokens, used=6)


@pytest.mark.parametrize("window", [1, 70])
@pytest.mark.parametrize("attention", ["linformer", "local"])
def test_long_inputs_with_a_window_are_computed_in_blocks(attention: str, window: int) -> None:
    cfg = replace(CONFIG, max_positions=512, projection="adaptive", attention=attention, local_window=window)
    assert encoder_flops(cfg, 2, 401) == counted(cfg, 2, 401)
    assert encoder_flops(cfg, 2, 401) < counted(replace(cfg, attention="exact", local_window=0), 2, 401)
    assert encoder_flops(cfg, 2, 401, used=300) == counted(cfg, 2, 401, used=300)
    assert encoder_flops(cfg, 2, 401, used=3) == counted(cfg, 2, 401, used=3)


@pytest.mark.parametrize("sharing", ["layerwise", "none"])
@pytest.mark.parametrize("attention", ["linformer", "exact", "none"])
def test_local_convolution_counts(sharing: str, attention: str) -> None:
    """PyTorch takes the gradients of a depthwise convolution for those of a dense one, so only the rest is compared."""
    without = replace(CONFIG, sharing=sharing, attention=attention)
    with_it = replace(without, local_conv=3)
    tokens, c = 20, CONFIG.embed_dim
    values = 2 * tokens * c * c if attention == "linformer" and sharing == "layerwise" else 0
    extra = encoder_flops(with_it, 1, tokens) - encoder_flops(without, 1, tokens)
    assert extra == 3 * CONFIG.num_layers * (2 * tokens * 3 * c + values)


def test_convolution_as_projection_is_linear_in_tokens() -> None:
    """Its taps are multiplied element by element, which PyTorch does not count."""
    pooled, conv = replace(CONFIG, projection="mean-pool"), replace(CONFIG, projection="conv")
    extra = encoder_flops(conv, 1, 32) - encoder_flops(pooled, 1, 32)
    assert extra == 3 * CONFIG.num_layers * 2 * 32 * CONFIG.embed_dim


def test_head_of_each_predicted_token() -> None:
    one = torch.nn.Linear(16, 16)
    out = torch.nn.Linear(16, 50)
    with FlopCounterMode(display=False) as counter:
        out(one(torch.randn(7, 16, requires_grad=True))).sum().backward()
    assert head_flops(CONFIG, 7) == counter.get_total_flops()


def test_layerdrop_leaves_layers_out() -> None:
    assert encoder_flops(replace(CONFIG, layerdrop=0.25), 1, 32) == 0.75 * encoder_flops(CONFIG, 1, 32)

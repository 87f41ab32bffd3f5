"""A layer that is replaced, hooked or brought from elsewhere counts: the output is that of a plain layer like it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder
from linformer_fairseq.layers.fused import is_plain, split_bias

SIZES: dict[str, Any] = {"vocab_size": 50, "embed_dim": 16, "ffn_dim": 32, "num_heads": 2, "num_layers": 2}
SIZES |= {"max_positions": 24, "projected_length": 8, "dropout": 0.0, "attention_dropout": 0.0}
SETTINGS: list[dict[str, Any]] = [
    *({"sharing": sharing, "local_conv": conv} for sharing in ("none", "layerwise") for conv in (0, 3)),
    {"sharing": "none", "projection": "conv"},
    *({"projection": "adaptive", "sharing": sharing, "local_window": 2} for sharing in ("none", "layerwise")),
    {"attention": "exact", "local_conv": 3},
    {"attention": "local", "local_window": 2},
    *({"attention": "none", "local_conv": conv} for conv in (0, 3)),
]


class Lora(nn.Module):
    """A layer and two thin matrices; it has the weight of the layer, as PEFT's has."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias
        self.a = nn.Parameter(torch.randn(2, layer.in_features) * 0.3)
        self.b = nn.Parameter(torch.randn(layer.out_features, 2) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.a.t() @ self.b.t()


class Packed(nn.Module):
    """A layer whose `weight` is packed, as that of bitsandbytes."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.real, self.bias = layer.weight.detach().clone(), layer.bias
        self.weight = nn.Parameter(torch.zeros(1, 7, dtype=torch.uint8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.real, self.bias)


def lora(layer: nn.Linear) -> tuple[nn.Module, nn.Linear]:
    adapted = Lora(layer)
    merged = copy.deepcopy(layer)
    merged.weight.data += (adapted.b @ adapted.a).detach()
    return adapted, merged


def packed(layer: nn.Linear) -> tuple[nn.Module, nn.Linear]:
    return Packed(layer), copy.deepcopy(layer)


def offloaded(layer: nn.Linear) -> tuple[nn.Module, nn.Linear]:
    """As accelerate has it: the weights come when the instance's own `forward` is called."""
    kept, same = (layer.weight.detach().clone(), layer.bias.detach().clone()), copy.deepcopy(layer)
    layer.forward = lambda x: functional.linear(x, *kept)  # type: ignore[method-assign]
    return layer.to_empty(device="meta"), same


def pruned(layer: nn.Linear) -> tuple[nn.Module, nn.Linear]:
    return prune.random_unstructured(layer, "weight", 0.5), _with(layer, layer.weight_mask * layer.weight_orig)


def scaled(layer: nn.Linear) -> tuple[nn.Module, nn.Linear]:
    same = copy.deepcopy(layer)
    layer.register_forward_hook(lambda module, inputs, out: 2 * out)
    same.weight.data *= 2
    same.bias.data *= 2
    return layer, same


def normed(layer: nn.Linear) -> tuple[nn.Module, nn.Linear]:
    parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data *= 1.5
    return layer, _with(layer, layer.weight)


def without_bias(layer: nn.Linear) -> tuple[nn.Module, nn.Linear]:
    same = copy.deepcopy(layer)
    nn.init.zeros_(same.bias)
    layer.bias = None
    return layer, same


def _with(layer: nn.Linear, weight: Tensor) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features)
    plain.weight.data, plain.bias.data = weight.detach().clone(), layer.bias.detach().clone()
    return plain


CHANGES = (lora, packed, offloaded, pruned, scaled, normed, without_bias)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(map(str, settings.values())))
def test_every_changed_layer_counts(
    settings: dict[str, Any], change: Callable[[nn.Linear], tuple[nn.Module, nn.Linear]]
) -> None:
    torch.manual_seed(0)
    encoder = LinformerEncoder(EncoderConfig(**SIZES | settings))
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    plain = copy.deepcopy(encoder)
    for layer, same in zip(encoder.layers, plain.layers, strict=True):
        for ours, theirs in ((layer.self_attn, same.self_attn), (layer, same)):
            for name, child in list(ours.named_children()):
                if isinstance(child, nn.Linear):
                    changed, expected = change(child)
                    setattr(ours, name, changed)
                    setattr(theirs, name, expected)
    tokens = torch.randint(2, 50, (3, 20))
    tokens[0, 13:] = 1
    real = tokens != 1
    expected = plain(tokens)[0][real]
    for training, gradients in itertools.product((False, True), (False, True)):
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(encoder.train(training)(tokens)[0][real], expected, atol=1e-4, rtol=1e-4)
    if change is lora:
        encoder(tokens)[0][real].square().sum().backward()
        adapters = [p for name, p in encoder.named_parameters() if name.endswith((".a", ".b"))]
        assert adapters and all(p.grad is not None and p.grad.any() for p in adapters)


def test_a_convolution_that_is_hooked_is_called() -> None:
    torch.manual_seed(0)
    encoder = LinformerEncoder(EncoderConfig(**SIZES, local_conv=3)).eval()
    tokens = torch.randint(2, 50, (2, 20))
    expected = encoder(tokens)[0]
    for layer in encoder.layers:
        conv = layer.self_attn.local_conv.conv
        conv.register_forward_hook(lambda module, inputs, out: out)
        assert not is_plain(conv)
    torch.testing.assert_close(encoder(tokens)[0], expected)
    conv.register_forward_hook(lambda module, inputs, out: out + 1)
    assert (encoder(tokens)[0] - expected).abs().max() > 0.01


def test_a_plain_layer_is_used_without_a_call() -> None:
    layer, x = nn.Linear(4, 3), torch.randn(2, 5, 4)
    product, bias = split_bias(layer, x)
    assert bias is layer.bias and torch.equal(product, functional.linear(x, layer.weight))

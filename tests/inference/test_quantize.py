"""8-bit layers: near the layer they stand for, and each token by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from linformer_fairseq.inference.quantize import Int8Linear, quantize
from linformer_fairseq.layers import EncoderConfig, LinformerEncoder


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 80)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_near_the_layer_that_it_stands_for(dtype: torch.dtype) -> None:
    layer = linear()
    x = torch.randn(3, 400, 48)  # more rows than are computed at a time
    found, wanted = Int8Linear(layer)(x.to(dtype)), layer(x)
    assert found.dtype == dtype and found.shape == wanted.shape
    assert (found.float() - wanted).norm() < 0.02 * wanted.norm()


@torch.inference_mode()
def test_a_token_does_not_depend_on_its_neighbours() -> None:
    layer = Int8Linear(linear())
    x = torch.randn(2, 7, 48)
    alone = layer(x[:1])
    x[1] *= 1000
    torch.testing.assert_close(layer(x)[:1], alone, atol=1e-6, rtol=0)
    assert torch.equal(layer(torch.zeros(1, 48))[0], layer.bias)


@torch.inference_mode()
@pytest.mark.parametrize("local_conv", [0, 3])
@pytest.mark.parametrize("attention, sharing", [("linformer", "layerwise"), ("linformer", "none"), ("exact", "none")])
def test_every_kind_of_encoder_in_8_bits(attention: str, sharing: str, local_conv: int) -> None:
    torch.manual_seed(0)
    sizes = {"embed_dim": 64, "ffn_dim": 128, "num_heads": 4, "num_layers": 2, "max_positions": 64}
    cfg = EncoderConfig(60, attention=attention, sharing=sharing, local_conv=local_conv, projected_length=16, **sizes)  # type: ignore[arg-type]
    model = LinformerEncoder(cfg).eval()
    tokens = torch.randint(4, 60, (3, 40))
    tokens[0, 30:] = 1
    real = tokens.ne(1)
    wanted = model(tokens)[0][real]
    found = quantize(model)(tokens)[0][real]
    assert sum(isinstance(m, Int8Linear) for m in model.modules()) == 12
    assert not any(isinstance(m, nn.Linear) for m in model.modules())
    assert torch.cosine_similarity(found, wanted).min() > 0.995

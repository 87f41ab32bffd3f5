"""The same weights as fairseq's examples/linformer give the same output, for its three sharing modes.

The example ships inside fairseq's wheel; it is run here as it is, and only on unpadded input, since it leaks padding.
"""

from __future__ import annotations

import pytest
import torch
from fairseq.data import Dictionary
from torch import Tensor, nn

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder
from linformer_fairseq.measuring.official_example import SHARING, build_official_encoder
from tests.faults.padding import at_trained_scale, largest_change, official, ours

N, K, LAYERS = 48, 12, 3
SIZES = {"embed_dim": 32, "ffn_embed_dim": 64, "attention_heads": 4, "layers": LAYERS}


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    symbols = Dictionary()
    for i in range(60):
        symbols.add_symbol(f"w{i}")
    return symbols


def official_encoder(sharing: str, dictionary: Dictionary) -> nn.Module:
    sizes = {f"encoder_{key}": value for key, value in SIZES.items()}
    return at_trained_scale(build_official_encoder(dictionary, sharing, N, K, **sizes))


def our_encoder(sharing: str, official: nn.Module, dictionary: Dictionary) -> LinformerEncoder:
    cfg = EncoderConfig(
        vocab_size=len(dictionary),
        pad_index=dictionary.pad(),
        max_positions=N,
        embed_dim=32,
        ffn_dim=64,
        num_heads=4,
        num_layers=LAYERS,
        projected_length=K,
        sharing=sharing,
    )
    ours = LinformerEncoder(cfg).eval()
    ours.load_state_dict(renamed(official.state_dict(), sharing))
    return ours


def renamed(state: dict[str, Tensor], sharing: str) -> dict[str, Tensor]:
    ours = {}
    for name, value in state.items():
        if name.endswith(("version", "compress_layer.bias", "compress_k.bias")):
            continue
        if name == "compress_layer.weight":
            ours["E.weight"] = value
        elif "compress" not in name:
            ours[name] = value
        elif sharing != "layerwise":
            ours[name.replace("compress_k", "E").replace("compress_v", "F")] = value
    return ours


@pytest.mark.parametrize("sharing", list(SHARING))
@pytest.mark.parametrize("tokens", [N, 17])
@torch.no_grad()
def test_same_weights_same_output(sharing: str, tokens: int, dictionary: Dictionary) -> None:
    torch.manual_seed(0)
    official = official_encoder(sharing, dictionary)
    ours = our_encoder(sharing, official, dictionary)
    batch = torch.randint(dictionary.nspecial, len(dictionary), (3, tokens))
    expected = official(batch)["encoder_out"][0].transpose(0, 1)
    torch.testing.assert_close(ours(batch)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sharing", list(SHARING))
def test_the_example_leaks_padding_where_ours_does_not(sharing: str) -> None:
    """Guards the table in the README: the comparison is worth something only while the example does leak."""
    assert largest_change(official(sharing)) > 0.02
    assert largest_change(ours(sharing, "linear")) < 1e-6

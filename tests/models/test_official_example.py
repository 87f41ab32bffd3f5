"""The same weights as fairseq's examples/linformer give the same output, for its three sharing modes.

The example ships inside fairseq's wheel; it is run here as it is, and only on unpadded input, since it leaks padding.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import fairseq
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models.roberta import roberta_base_architecture
from torch import Tensor, nn

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder
from tests.layers.test_attention import trained_scale

N, K, LAYERS = 48, 12, 3
MODES = {"headwise": (0, 0), "key-value": (1, 0), "layerwise": (1, 1)}


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    symbols = Dictionary()
    for i in range(60):
        symbols.add_symbol(f"w{i}")
    return symbols


def official_encoder(sharing: str, dictionary: Dictionary) -> nn.Module:
    """The example's encoder, imported past its package, which would register our model's name a second time."""
    package = ModuleType("official_linformer")
    package.__path__ = [str(Path(fairseq.__file__).parent / "examples/linformer/linformer_src")]
    sys.modules[package.__name__] = package
    module = import_module("official_linformer.modules.linformer_sentence_encoder")

    shared_kv, shared_layer = MODES[sharing]
    args = Namespace(
        encoder_layers=LAYERS,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=64,
        encoder_attention_heads=4,
        max_positions=N,
        compressed=N // K,
        shared_kv_compressed=shared_kv,
        shared_layer_kv_compressed=shared_layer,
        freeze_compress=0,
    )
    roberta_base_architecture(args)
    embedding = nn.Embedding(len(dictionary), 32, dictionary.pad())
    return trained_scale(module.LinformerTransformerEncoder(args, dictionary, embedding))


def official_features(encoder: nn.Module, tokens: Tensor) -> Tensor:
    features: Tensor = encoder(tokens)["encoder_out"][0].transpose(0, 1)
    return features


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


@pytest.mark.parametrize("sharing", list(MODES))
@pytest.mark.parametrize("tokens", [N, 17])
@torch.no_grad()
def test_same_weights_same_output(sharing: str, tokens: int, dictionary: Dictionary) -> None:
    torch.manual_seed(0)
    official = official_encoder(sharing, dictionary)
    ours = our_encoder(sharing, official, dictionary)
    batch = torch.randint(dictionary.nspecial, len(dictionary), (3, tokens))
    expected = official_features(official, batch)
    torch.testing.assert_close(ours(batch)[0], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_example_leaks_padding_where_ours_does_not(dictionary: Dictionary) -> None:
    """Guards the comparison in the README: its table is worth something only while the example does leak."""
    torch.manual_seed(0)
    official = official_encoder("headwise", dictionary)
    ours = our_encoder("headwise", official, dictionary)
    sentence = torch.randint(dictionary.nspecial, len(dictionary), (1, 30))
    padded = torch.cat([sentence, sentence.new_full((1, 18), dictionary.pad())], 1)
    reference, ours_reference = official_features(official, sentence), ours(sentence)[0]
    leak = official_features(official, padded)[:, :30] - reference
    moved = ours(padded)[0][:, :30] - ours_reference
    assert leak.norm() / reference.norm() > 0.01
    assert moved.norm() / ours_reference.norm() < 1e-6

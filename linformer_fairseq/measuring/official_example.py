"""fairseq's own Linformer (examples/linformer, shipped in its wheel), to be measured beside ours."""

import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import fairseq
from fairseq.data import Dictionary
from fairseq.models.roberta import roberta_base_architecture
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from torch import nn

# (--shared-kv-compressed, --shared-layer-kv-compressed) by the name that the paper has for the result
SHARING = {"headwise": (0, 0), "key-value": (1, 0), "layerwise": (1, 1)}


def build_official_encoder(
    dictionary: Dictionary, sharing: str, max_positions: int, projected_length: int, **sizes: Any
) -> nn.Module:
    """The example's encoder, called with (B, N) ids; its features (N, B, C) are `encoder(ids)["encoder_out"][0]`.

    It is imported past its package, whose import would register the name of our model a second time.

    Args:
        sharing: headwise, key-value or layerwise.
        sizes: encoder_layers, encoder_embed_dim, encoder_ffn_embed_dim, encoder_attention_heads, dropouts.
    """
    if "official_linformer" not in sys.modules:
        package = ModuleType("official_linformer")
        package.__path__ = [str(Path(fairseq.__file__).parent / "examples/linformer/linformer_src")]
        sys.modules[package.__name__] = package
    module = import_module("official_linformer.modules.linformer_sentence_encoder")
    shared_kv, shared_layer = SHARING[sharing]
    args = Namespace(max_positions=max_positions, compressed=max_positions // projected_length, freeze_compress=0)
    vars(args).update(shared_kv_compressed=shared_kv, shared_layer_kv_compressed=shared_layer, **sizes)
    roberta_base_architecture(args)
    embedding = nn.Embedding(len(dictionary), args.encoder_embed_dim, dictionary.pad())
    encoder: nn.Module = module.LinformerTransformerEncoder(args, dictionary, embedding)
    return encoder.apply(init_bert_params)  # as the example's model does

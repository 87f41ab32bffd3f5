"""The folder of a Hugging Face RoBERTa: config.json, weights, and the order of its ids."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import MAX_SPECIAL, PAD, Checkpoint, completed, new_lm_head
from linformer_fairseq.checkpoints.files import read_json, read_weights
from linformer_fairseq.checkpoints.hf_vocabulary import id_order, read_tokenizer
from linformer_fairseq.checkpoints.names import DEFAULT_HEAD, EMBEDDING, ENCODER, HEADS, LM_HEAD, OUTPUT, POSITIONS
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers.config import EncoderConfig, option_names
from linformer_fairseq.models.architectures import MODEL

logger = logging.getLogger(__name__)

EPS = 1e-5  # of every layer norm here and in fairseq
# Names of modules there and here, as regular expressions; the parameter's own name follows.
_LAYER, _OUR_LAYER = r"encoder\.layer\.(\d+)\.", rf"{ENCODER}layers.\1."
_MODULES = {
    r"embeddings\.word_embeddings": f"{ENCODER}embed_tokens",
    r"embeddings\.position_embeddings": f"{ENCODER}embed_positions",
    r"embeddings\.LayerNorm": f"{ENCODER}layernorm_embedding",
    rf"{_LAYER}attention\.self\.query": f"{_OUR_LAYER}self_attn.q_proj",
    rf"{_LAYER}attention\.self\.key": f"{_OUR_LAYER}self_attn.k_proj",
    rf"{_LAYER}attention\.self\.value": f"{_OUR_LAYER}self_attn.v_proj",
    rf"{_LAYER}attention\.output\.dense": f"{_OUR_LAYER}self_attn.out_proj",
    rf"{_LAYER}attention\.output\.LayerNorm": f"{_OUR_LAYER}self_attn_layer_norm",
    rf"{_LAYER}intermediate\.dense": f"{_OUR_LAYER}fc1",
    rf"{_LAYER}output\.dense": f"{_OUR_LAYER}fc2",
    rf"{_LAYER}output\.LayerNorm": f"{_OUR_LAYER}final_layer_norm",
    r"lm_head\.(dense|layer_norm)": rf"{LM_HEAD}\1",
    r"lm_head(\.decoder)?": LM_HEAD.removesuffix("."),
    r"classifier\.(dense|out_proj)": rf"{HEADS}{DEFAULT_HEAD}.\1",
}
# Options that config.json of a RoBERTa has under the same keys as that of a Linformer.
_SHARED = ("embed_dim", "ffn_dim", "num_heads", "num_layers", "dropout", "attention_dropout")
_TYPES = "embeddings.token_type_embeddings.weight"
# Buffers, and the pooler, which the masked-LM and the classification head do not use.
_DROPPED = re.compile(r"embeddings\.(position|token_type)_ids|pooler\..*")


def from_hf_roberta(folder: Path) -> Checkpoint:
    """Read a RobertaModel, RobertaForMaskedLM or RobertaForSequenceClassification, or one of XLM-R.

    Our ids are fairseq's, see `hf_vocabulary`. The embedding of the one token type becomes part of the positions. A
    model without a masked-LM head gets a new one, as in training from scratch.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: has no config.json, so it is not the folder of a Hugging Face model")
    config = read_json(folder / "config.json")
    _check(folder, config)
    found = {key.removeprefix("roberta."): value for key, value in read_weights(folder).items()}
    state = _renamed(folder, found)
    pad = int(config.get("pad_token_id", PAD))
    tokenizer = read_tokenizer(folder)
    if tokenizer is None and pad != PAD:
        raise UsageError(f"{folder}: <pad> is {pad} and fairseq's is {PAD}; put its tokenizer in the folder, too")
    order = torch.tensor(id_order(tokenizer, state[EMBEDDING].size(0)))
    learned = state[POSITIONS][pad + 1 :]  # as in fairseq, positions are numbered from there on
    if _TYPES in found:
        learned = learned + found[_TYPES][0]
    n = learned.size(0)
    state[POSITIONS] = torch.cat([learned.new_zeros(MAX_SPECIAL, learned.size(1)), learned])
    tied = bool(config.get("tie_word_embeddings", True)) or OUTPUT not in state
    for key in {EMBEDDING, OUTPUT, f"{LM_HEAD}bias"} & set(state):
        state[key] = state[key][order]
    new_head = f"{LM_HEAD}bias" not in state
    if new_head:
        state |= new_lm_head(state[EMBEDDING])
    if tied:
        state[OUTPUT] = state[EMBEDDING]
    keys, settings = option_names("hf"), option_names("fairseq")
    # What config.json lacks has the values of roberta-base, which are our defaults.
    model = {settings[ours]: config.get(keys[ours], getattr(EncoderConfig, ours)) for ours in _SHARED}
    head_dropout = config.get("classifier_dropout")
    model |= {
        "_name": MODEL,
        "attention": "exact",
        "local_conv": 0,
        "max_positions": n,
        "encoder_normalize_before": False,
        "activation_fn": "gelu",
        "pooler_dropout": model["dropout"] if head_dropout is None else float(head_dropout),
        "untie_weights_roberta": not tied,
    }
    note = {"conversion": "from-roberta", "form": "Hugging Face", "new masked-LM head": new_head}
    return completed(Checkpoint(state, model, {"_name": "masked_lm", "tokens_per_sample": n}, notes=[note]))


def _check(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what our encoder does not compute."""
    kind = config.get("model_type")
    if kind not in ("roberta", "xlm-roberta"):
        raise UsageError(f"{folder}: a model of type {kind!r} cannot be converted; it must be roberta or xlm-roberta")
    if config.get("hidden_act", "gelu") != "gelu":  # its masked-LM head always has gelu, and ours has one for both
        raise UsageError(f"{folder}: its activation is {config['hidden_act']}; only gelu can be converted")
    absolute = config.get("position_embedding_type", "absolute") == "absolute"
    if not absolute or config.get("is_decoder") or config.get("add_cross_attention"):
        raise UsageError(f"{folder}: only encoders with absolute positions can be converted")
    if (eps := config.get("layer_norm_eps", 1e-12)) != EPS:
        text = "%s: its layer norms add %s and ours %s, so that the converted model differs a little"
        logger.warning(text, folder, eps, EPS)


def _renamed(folder: Path, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by our names."""
    state: dict[str, Tensor] = {}
    # lm_head.decoder.bias is the one that counts; lm_head.bias is the same one or unused.
    for key, value in sorted(found.items(), key=lambda item: item[0] == "lm_head.decoder.bias"):
        module, _, parameter = key.rpartition(".")
        names = [match.expand(ours) for theirs, ours in _MODULES.items() if (match := re.fullmatch(theirs, module))]
        if names:
            state[f"{names[0]}.{parameter}"] = value.float()
        elif key != _TYPES and not _DROPPED.fullmatch(key):
            raise UsageError(f"{folder}: the parameter {key} has no place in a RoBERTa of fairseq")
    for key in (EMBEDDING, POSITIONS):
        if key not in state:
            raise UsageError(f"{folder}: its weights lack {key.split('.')[-2]}, so it is not a whole RoBERTa")
    return state

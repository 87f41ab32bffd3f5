"""The folder of a Hugging Face BERT or RoBERTa as this project's model with exact attention: equal vectors and logits.

BERT, RoBERTa, XLM-R, CamemBERT and MiniLM are one encoder with other names and other settings. What BERT has more is
left out or becomes part of what we have: the embedding of its first token type is added to the positions, the pooler
is the first half of a classification head, and without such a head neither it nor next-sentence prediction is needed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import PAD, Checkpoint, completed, new_lm_head
from linformer_fairseq.checkpoints.files import read_json, read_weights
from linformer_fairseq.checkpoints.hf_kept import encoder_folder, longest_input, note_of_head, rows_before_positions
from linformer_fairseq.checkpoints.hf_vocabulary import read_tokenizer, special_of, to_our_rows
from linformer_fairseq.checkpoints.names import DEFAULT_HEAD, EMBEDDING, ENCODER, HEADS, LM_HEAD, OUTPUT, POSITIONS
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers.config import EncoderConfig, option_names
from linformer_fairseq.models.architectures import MODEL

KINDS = ("bert", "roberta", "xlm-roberta", "camembert")
# Models that one may take for a BERT.
OTHER_KINDS = {
    "mpnet": "it adds relative positions to its attention",
    "deberta": "it attends to relative positions",
    "deberta-v2": "it attends to relative positions",
    "distilbert": "its parameters have other names and are not read",
    "electra": "its embeddings may be narrower than its layers",
    "albert": "its layers share their parameters",
}
# Names of modules there and here, as regular expressions; the parameter's own name follows.
_LAYER, _OUR_LAYER = r"encoder\.layer\.(\d+)\.", rf"{ENCODER}layers.\1."
_HEAD = f"{HEADS}{DEFAULT_HEAD}."
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
    r"(?:lm_head|cls\.predictions\.transform)\.dense": f"{LM_HEAD}dense",
    r"lm_head\.layer_norm|cls\.predictions\.transform\.LayerNorm": f"{LM_HEAD}layer_norm",
    r"(?:lm_head|cls\.predictions)(?:\.decoder)?": LM_HEAD.removesuffix("."),
    r"classifier\.(dense|out_proj)": rf"{_HEAD}\1",
}
# A classification head of BERT, which has the pooler as its first layer.
_BERT_HEAD = {r"pooler\.dense": f"{_HEAD}dense", r"classifier": f"{_HEAD}out_proj"}
# Options that config.json of such a model has under the same keys as that of a Linformer.
_SHARED = ("embed_dim", "ffn_dim", "num_heads", "num_layers", "dropout", "attention_dropout")
_TYPES = "embeddings.token_type_embeddings.weight"
_BUFFERS = re.compile(r"embeddings\.(position|token_type)_ids")
_LEFT_OUT = {"pooler": "pooler", "cls": "next-sentence prediction"}  # beginning of the names, and what it is


def from_hf_encoder(folder: Path) -> Checkpoint:
    """Read a model of one of the `KINDS`, with or without a masked-LM or classification head.

    Our ids are fairseq's, see `hf_vocabulary`. A model without a masked-LM head gets a new one, as in training from
    scratch. The note says so, and what was left out.
    """
    source = encoder_folder(folder)
    if not (source / "config.json").is_file():
        raise UsageError(f"{folder}: has no config.json, so it is not the folder of a Hugging Face model")
    config = read_json(source / "config.json")
    _check(source / "config.json", config)
    found = {re.sub(r"^(bert|roberta)\.", "", key): value for key, value in read_weights(source).items()}
    state, left_out = _renamed(folder, found)
    if _TYPES in found:
        state[POSITIONS] = state[POSITIONS] + found[_TYPES][0].float()
    tokenizer = read_tokenizer(source)
    if tokenizer is not None:
        special = special_of(source, tokenizer, state[EMBEDDING].size(0))
    elif config["model_type"] == "bert" or int(config.get("pad_token_id", PAD)) != PAD:
        raise UsageError(f"{source}: without a tokenizer its special symbols are unknown; put its tokenizer there, too")
    else:
        special = [*range(4), state[EMBEDDING].size(0) - 1]
    state = to_our_rows(state, special, rows_before_positions(config))
    tied = bool(config.get("tie_word_embeddings", True)) or OUTPUT not in state
    new_head = f"{LM_HEAD}bias" not in state
    if new_head:
        state |= new_lm_head(state[EMBEDDING])
    if tied:
        state[OUTPUT] = state[EMBEDDING]
    note = {"conversion": f"from-{config['model_type']}", "new masked-LM head": new_head, "left out": left_out}
    n = longest_input(config)
    model = _settings(config) | {"max_positions": n, "untie_weights_roberta": not tied}
    learnt = note_of_head(config) if f"{_HEAD}out_proj.weight" in state else {}
    notes = [*filter(None, [learnt]), note]
    return completed(Checkpoint(state, model, {"_name": "masked_lm", "tokens_per_sample": n}, notes=notes))


def _check(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse what our encoder does not compute."""
    kind = config.get("model_type")
    if kind not in KINDS:
        reason = f": {OTHER_KINDS[kind]}" if kind in OTHER_KINDS else ""
        known = f"{', '.join(KINDS[:-1])} or {KINDS[-1]}"
        raise UsageError(f"{path}: a model of type {kind!r} cannot be converted{reason}; it must be {known}")
    if "AutoModel" in (config.get("auto_map") or {}):
        raise UsageError(f"{path}: the model is code of its own (auto_map), which may compute anything; choose another")
    # `gelu_python` is the same function. The masked-LM head of a RoBERTa always has it, and ours has one for both.
    if config.get("hidden_act", "gelu") not in ("gelu", "gelu_python"):
        raise UsageError(f"{path}: its activation is {config['hidden_act']}; only gelu can be converted")
    if (positions := config.get("position_embedding_type") or "absolute") != "absolute":
        raise UsageError(f"{path}: its positions are {positions}; only absolute positions can be converted")
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise UsageError(f"{path}: describes a decoder; only encoders can be converted")


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of our model. What config.json lacks has the values of roberta-base, which are our defaults."""
    keys, settings = option_names("hf"), option_names("fairseq")
    model = {settings[ours]: config.get(keys[ours], getattr(EncoderConfig, ours)) for ours in _SHARED}
    head_dropout = config.get("classifier_dropout")
    return model | {
        "_name": MODEL,
        "attention": "exact",
        "local_conv": 0,
        "encoder_normalize_before": False,
        "activation_fn": "gelu",
        "layer_norm_eps": float(config.get("layer_norm_eps", 1e-12)),
        "pooler_dropout": model["dropout"] if head_dropout is None else float(head_dropout),
    }


def _renamed(folder: Path, found: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Parameters by our names, and what was left out."""
    modules = _MODULES | (_BERT_HEAD if {"classifier.weight", "pooler.dense.weight"} <= found.keys() else {})
    state: dict[str, Tensor] = {}
    left_out = set()
    # The bias in `decoder` is the one that counts; the one beside it is the same or unused.
    for key, value in sorted(found.items(), key=lambda item: item[0].endswith(".decoder.bias")):
        # Layer norms of the first BERTs call their parameters as the paper does.
        module, _, parameter = key.replace(".gamma", ".weight").replace(".beta", ".bias").rpartition(".")
        names = [match.expand(ours) for theirs, ours in modules.items() if (match := re.fullmatch(theirs, module))]
        if names:
            state[f"{names[0]}.{parameter}"] = value.float()
        elif (part := key.split(".")[0]) in _LEFT_OUT:
            left_out.add(_LEFT_OUT[part])
        elif key != _TYPES and not _BUFFERS.fullmatch(key):
            raise UsageError(f"{folder}: the parameter {key} has no place in a RoBERTa of fairseq")
    for key in (EMBEDDING, POSITIONS):
        if key not in state:
            raise UsageError(f"{folder}: its weights lack {key.split('.')[-2]}, so it is not a whole model")
    return state, sorted(left_out)
